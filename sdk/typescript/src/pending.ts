/**
 * The commands without a final answer: sent, waiting for a connection, or waiting to be sent again.
 * Pure. A frame is encoded once and sent again byte for byte, so a retried publish carries the client
 * message id of the first attempt.
 */
import type { Backoff } from "./backoff.js"
import type { Answer, AnswerKind } from "./codec.js"
import { encode, type Command } from "./commands.js"
import { HubbubError, refusal } from "./errors.js"
import { COMMAND_BYTES_MAX, COMMANDS_MAX } from "./limits.js"

/** Who waits for an answer, and until when. */
export interface Caller<T> {
  ticket: T
  deadline: number
}

/** What a command is for. All but the first belong to their connection, and end with it. */
export type Purpose =
  | { for: "caller" }
  | { for: "subscribe"; key: number }
  | { for: "unsubscribe"; channelId: number }
  | { for: "login" }
  | { for: "probe" }

type Wait = { on: "connection" } | { on: "reply"; since: number } | { on: "time"; until: number }

export interface Pending<T> {
  readonly frame: Uint8Array<ArrayBuffer>
  readonly expects: AnswerKind
  readonly purpose: Purpose
  /** After the deadline nobody: the entry stays for a late reply. */
  caller: Caller<T> | undefined
  backoff: Backoff
  wait: Wait
  /** The last refusal, told to the caller when the deadline comes. */
  refusal?: HubbubError
}

export interface PendingOptions<T> {
  backoff: () => Backoff
  /** A frame without a reply for so long ends the connection. */
  replyTimeoutMs: number
  send: (frame: Uint8Array<ArrayBuffer>) => void
  answer: (caller: Caller<T>, answer: Answer | HubbubError) => void
  /** A command has its final answer, and is forgotten. */
  settled: (id: number, pending: Pending<T>, answer: Answer | HubbubError, now: number, uniform: number) => void
}

export class PendingCommands<T> {
  /** The largest frame that the server takes; undefined without a connection. */
  #messageBytesMax: number | undefined
  #lastId = 0
  #bytes = 0
  readonly #commands = new Map<number, Pending<T>>()
  readonly #options: PendingOptions<T>

  constructor(options: PendingOptions<T>) {
    this.#options = options
  }

  /** Whether a caller may add one. Those of the connection are bounded by what they are for. */
  get hasRoom(): boolean {
    return this.#commands.size < COMMANDS_MAX && this.#bytes < COMMAND_BYTES_MAX
  }

  /** Adds one, and answers its id. */
  submit(command: Command, purpose: Purpose, now: number, caller?: Caller<T>): number {
    const id = this.#unusedId()
    const frame = encode(id, command)
    const backoff = this.#options.backoff()
    const pending: Pending<T> = {
      frame, expects: command.answer, purpose, caller, backoff, wait: { on: "connection" },
    }
    this.#commands.set(id, pending)
    this.#bytes += frame.length
    this.#send(id, pending, now)
    return id
  }

  connected(messageBytesMax: number): void {
    this.#messageBytesMax = messageBytesMax
  }

  /** Sends what waits for a connection. */
  resend(now: number): void {
    for (const [id, pending] of [...this.#commands]) {
      if (pending.wait.on === "connection") this.#send(id, pending, now)
    }
  }

  /** Nothing can be sent on this connection any more. */
  hold(): void {
    this.#messageBytesMax = undefined
  }

  disconnected(now: number): void {
    this.hold()
    for (const [id, pending] of [...this.#commands]) {
      if (pending.purpose.for === "unsubscribe") {
        // It ended with the connection.
        this.#settle(id, pending, { kind: "unsubscribed" }, now, 0)
      } else if (pending.purpose.for !== "caller" || !pending.caller) {
        // Who has stopped waiting needs no answer, and on a new connection no late one can come.
        this.#remove(id)
      } else if (pending.wait.on === "reply") {
        pending.wait = { on: "connection" }
      }
    }
  }

  /** Gives all of them this answer. */
  abandon(error: HubbubError): void {
    for (const [id, { caller }] of [...this.#commands]) {
      this.#remove(id)
      if (caller) this.#options.answer(caller, error)
    }
  }

  /** A reply came. Answers what is wrong with it, if something is. */
  reply(id: number, answer: Answer | HubbubError, now: number, uniform: number): string | undefined {
    const pending = this.#commands.get(id)
    const isRefusal = answer instanceof HubbubError
    if (!pending || pending.wait.on !== "reply") {
      return `a reply came for command ${id}, which is not under way${isRefusal ? `: ${answer.message}` : ""}`
    }
    if (!isRefusal && answer.kind !== pending.expects) return `a reply of the wrong kind came for command ${id}`
    if (isRefusal && pending.purpose.for === "caller") {
      const until = now + pending.backoff.next(uniform, answer.retryAfterMs)
      if (answer.retry && pending.caller && until < pending.caller.deadline) {
        pending.wait = { on: "time", until }
        pending.refusal = answer
        return undefined
      }
    }
    this.#settle(id, pending, answer, now, uniform)
    return undefined
  }

  /** The earliest moment at which `tick` has something to do; infinity if there is none. */
  nextTick(): number {
    let earliest = Infinity
    for (const { wait, caller } of this.#commands.values()) {
      earliest = Math.min(earliest, caller?.deadline ?? Infinity)
      if (wait.on === "time") earliest = Math.min(earliest, wait.until)
      if (wait.on === "reply") earliest = Math.min(earliest, wait.since + this.#options.replyTimeoutMs)
    }
    return earliest
  }

  /** Sends again what is due, and gives up what is overdue. Answers what is wrong with the connection. */
  tick(now: number): string | undefined {
    let wrong: string | undefined
    for (const [id, pending] of [...this.#commands]) {
      const { caller, wait } = pending
      if (caller && caller.deadline <= now) {
        this.#options.answer(caller, pending.refusal ?? overdue())
        pending.caller = undefined
        if (wait.on !== "reply") this.#remove(id)
      } else if (wait.on === "time" && wait.until <= now) {
        this.#send(id, pending, now)
      }
      if (wait.on === "reply" && wait.since + this.#options.replyTimeoutMs <= now) {
        wrong = `command ${id} has had no reply`
      }
    }
    return wrong
  }

  #unusedId(): number {
    do {
      // 0 is the id of a frame that the server could not read.
      this.#lastId = this.#lastId < 0xffff_ffff ? this.#lastId + 1 : 1
    } while (this.#commands.has(this.#lastId))
    return this.#lastId
  }

  #remove(id: number): void {
    this.#bytes -= this.#commands.get(id)?.frame.length ?? 0
    this.#commands.delete(id)
  }

  #settle(id: number, pending: Pending<T>, answer: Answer | HubbubError, now: number, uniform: number): void {
    this.#remove(id)
    this.#options.settled(id, pending, answer, now, uniform)
  }

  #send(id: number, pending: Pending<T>, now: number): void {
    if (this.#messageBytesMax === undefined) {
      pending.wait = { on: "connection" }
    } else if (pending.frame.length > this.#messageBytesMax) {
      // The server would close the connection with 1009, and this client would come back with the
      // same frame.
      this.#settle(id, pending, refusal(102, "The message is larger than the server takes."), now, 0)
    } else {
      pending.wait = { on: "reply", since: now }
      this.#options.send(pending.frame)
    }
  }
}

export function overdue(): HubbubError {
  return new HubbubError("timeout", "no answer came in time", { retry: true })
}
