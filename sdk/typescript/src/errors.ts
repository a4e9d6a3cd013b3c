/**
 * What can go wrong: the server's refusals, close codes, and what this client finds out itself.
 * `test/unit/contract.test.ts` compares both tables with the contract's.
 */
import { RETRY_AFTER_MS_MAX } from "./limits.js"

/** A place in a channel: which life of its numbering, and the last sequence. */
export interface Position {
  epoch: number
  /** 0 is before the first message. */
  sequence: number
}

/** The server's codes: name and whether the same command, unchanged, may pass later. */
const CODES = new Map<number, [name: string, retry: boolean]>([
  [100, ["bad_request", false]],
  [101, ["unknown_command", false]],
  [102, ["message_too_large", false]],
  [103, ["not_found", false]],
  [104, ["method_not_allowed", false]],
  [105, ["unsupported_media_type", false]],
  [200, ["not_authenticated", false]],
  [201, ["invalid_token", false]],
  [202, ["token_expired", false]],
  [203, ["forbidden", false]],
  [204, ["invalid_credentials", false]],
  [205, ["username_taken", false]],
  [206, ["invalid_username", false]],
  [207, ["invalid_password", false]],
  [208, ["wrong_user", false]],
  [209, ["unknown_user", false]],
  [300, ["unknown_channel", false]],
  [301, ["channel_exists", false]],
  [302, ["invalid_channel_name", false]],
  [303, ["already_subscribed", false]],
  [304, ["not_subscribed", false]],
  [305, ["epoch_changed", false]],
  [306, ["position_ahead", false]],
  [307, ["channel_archived", false]],
  [308, ["last_owner", false]],
  [309, ["not_a_member", false]],
  [400, ["empty_message", false]],
  [401, ["idempotency_conflict", false]],
  [402, ["quota_exhausted", false]],
  [500, ["busy", true]],
  [501, ["rate_limited", true]],
  [502, ["too_many", false]],
  [503, ["overloaded", true]],
  [600, ["internal", true]],
  [601, ["storage_unavailable", true]],
  [602, ["channel_sealed", false]],
  [603, ["draining", true]],
])

/** Close codes: name and whether to connect again. */
const CLOSES = new Map<number, [name: string, reconnect: boolean]>([
  [1000, ["normal", false]],
  [1002, ["protocol_error", false]],
  [1003, ["unsupported_data", false]],
  [1007, ["invalid_utf8", false]],
  [1008, ["policy_violation", false]],
  [1009, ["message_too_big", false]],
  [1011, ["internal_error", true]],
  [1013, ["try_again_later", true]],
  [4000, ["going_away", true]],
  [4001, ["token_expired", true]],
  [4002, ["pong_timeout", true]],
  [4008, ["slow_consumer", true]],
  [4010, ["replaced", true]],
  [4013, ["overloaded", true]],
  [4029, ["rate_limited", true]],
  [4500, ["invalid_token", false]],
  [4501, ["not_authenticated", false]],
  [4503, ["forbidden", false]],
  [4505, ["protocol_violation", false]],
  [4506, ["unsupported_version", false]],
])

/** What goes with an error, as far as it is known. */
export interface ErrorDetails {
  number?: number | undefined
  retry?: boolean | undefined
  retryAfterMs?: number | undefined
  clientMessageId?: string | undefined
  head?: Position | undefined
  cause?: unknown
}

/**
 * Why something failed. `code` is the server's name for it (docs/PROTOCOL.md, "Error codes"), or the
 * name of the close code, or one of this client's own, which have no number:
 *
 * - `timeout`: no answer in time. Whether a publish took effect is not known; its
 *   `clientMessageId` makes a retry harmless.
 * - `disconnected`: there is no connection, and none is being tried for.
 * - `connection_lost`: the connection broke; another one is tried for.
 * - `protocol`: the server broke the protocol. The client connects again and resumes.
 * - `busy` without a number: this client has too many commands under way.
 * - `invalid_argument`: a call that makes no sense, such as a sequence that is no number.
 * - `token`: `getToken` failed; `cause` is what it threw.
 * - `listener`: a listener threw; `cause` is what it threw.
 */
export class HubbubError extends Error {
  override readonly name = "HubbubError"
  readonly code: string
  readonly number: number | undefined
  /** Whether the same, unchanged, may pass later. */
  readonly retry: boolean
  readonly retryAfterMs: number | undefined
  readonly clientMessageId: string | undefined
  /** With `epoch_changed` and `position_ahead`: where the channel is now. */
  readonly head: Position | undefined

  constructor(code: string, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.number = details.number
    this.retry = details.retry ?? false
    this.retryAfterMs = details.retryAfterMs
    this.clientMessageId = details.clientMessageId
    this.head = details.head
  }

  /** The same error, saying which message it is about. */
  about(clientMessageId: string): HubbubError {
    const { code, message, number, retry, retryAfterMs, head, cause } = this
    return new HubbubError(code, message, { number, retry, retryAfterMs, head, cause, clientMessageId })
  }
}

/** A refusal with the server's number. An unknown one is taken as final. */
export function refusal(
  number: number,
  message: string,
  retryAfterMs?: number,
  head?: Position,
): HubbubError {
  const [code, retry] = CODES.get(number) ?? [`unknown_${number}`, false]
  const hint = retryAfterMs === undefined ? undefined : bounded(retryAfterMs)
  return new HubbubError(code, message || code, { number, retry, retryAfterMs: hint, head })
}

/**
 * What a closed connection means. `retry` says whether to connect again: for a known code the table
 * does, for another its range. The reason may be JSON with a hint when to come back.
 */
export function closed(number: number, reason: string): HubbubError {
  const known = CLOSES.get(number)
  const retry = known ? known[1] : number < 4500
  const hint = hinted(reason)
  // 1005 and 1006 stand for "no code": the connection just ended.
  const [code, words] =
    number === 1005 || number === 1006
      ? ["connection_lost", "the connection ended"]
      : known
        ? [known[0], `the connection was closed: ${known[0]} (${number})`]
        : [`close_${number}`, `the connection was closed with code ${number}`]
  return new HubbubError(code, words, { number, retry, retryAfterMs: hint })
}

/** A wait that a server asked for. 0 is no word about it: the back-off rules then. */
export function bounded(retryAfterMs: number): number {
  return Math.min(retryAfterMs, RETRY_AFTER_MS_MAX)
}

function hinted(reason: string): number | undefined {
  if (!reason.startsWith("{")) return undefined
  let parsed: unknown
  try {
    parsed = JSON.parse(reason)
  } catch {
    // Text for people that happens to begin so.
    return undefined
  }
  const hint = (parsed as { retry_after_ms?: unknown }).retry_after_ms
  return typeof hint === "number" && hint > 0 ? bounded(hint) : undefined
}

/** Both tables, for the test that compares them with the contract. */
export const TABLES = { codes: CODES, closes: CLOSES } as const
