/** What the unit tests share: fake time, sent frames as values, and a WebSocket that a test plays. */
import { create, fromBinary, toBinary, type MessageInitShape } from "@bufbuild/protobuf"
import type { Clock } from "../../src/client.js"
import { ClientEnvelopeSchema, type ClientEnvelope } from "../../src/gen/hubbub/v1/client_pb.js"
import { ServerEnvelopeSchema } from "../../src/gen/hubbub/v1/server_pb.js"
import type { Entry, Welcome } from "../../src/values.js"

export const START = 1_800_000_000_000

export class FakeClock implements Clock {
  #now = START
  #timers = new Map<number, { at: number; run: () => void }>()
  #last = 0

  now(): number {
    return this.#now
  }

  setTimeout(run: () => void, delayMs: number): unknown {
    this.#last += 1
    this.#timers.set(this.#last, { at: this.#now + delayMs, run })
    return this.#last
  }

  clearTimeout(timer: unknown): void {
    this.#timers.delete(timer as number)
  }

  get timers(): number {
    return this.#timers.size
  }

  /** Lets time pass, timer by timer, and what promises wait for between them. */
  async pass(ms: number): Promise<void> {
    const end = this.#now + ms
    for (let turns = 0; turns < 10_000; turns += 1) {
      await settle()
      const [first] = [...this.#timers].sort(([, a], [, b]) => a.at - b.at)
      if (!first || first[1].at > end) break
      this.#timers.delete(first[0])
      this.#now = Math.max(this.#now, first[1].at)
      first[1].run()
    }
    this.#now = end
    await settle()
  }
}

/** Runs what is queued behind promises. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await Promise.resolve()
}

export function sent(frame: Uint8Array): ClientEnvelope {
  return fromBinary(ClientEnvelopeSchema, frame)
}

export type Envelope = NonNullable<MessageInitShape<typeof ServerEnvelopeSchema>["envelope"]>

export function envelope(content: Envelope): Uint8Array<ArrayBuffer> {
  return toBinary(ServerEnvelopeSchema, create(ServerEnvelopeSchema, { envelope: content }))
}

export const WELCOME: Welcome = {
  user: { id: 7, name: "ada" },
  expiresAt: START + 3_600_000,
  pingIntervalMs: 25_000,
  pongTimeoutMs: 10_000,
  messageBytesMax: 65_536,
  serverVersion: "test",
}

export function messages(first: number, count = 1): Entry[] {
  return Array.from({ length: count }, (_, index) => ({
    kind: "message" as const,
    sequence: first + index,
    at: START,
    userId: 7,
    body: `number ${first + index}`,
  }))
}

/** The other end is the test. */
export class FakeWebSocket {
  /** All that were opened, oldest first. */
  static opened: FakeWebSocket[] = []

  readonly url: string
  readonly protocols: string[]
  readonly frames: ClientEnvelope[] = []
  binaryType = ""
  readyState = 1
  closedWith: number | undefined
  onmessage: ((event: { data: unknown }) => void) | null = null
  onclose: ((event: { code: number; reason: string }) => void) | null = null
  onerror: (() => void) | null = null

  constructor(url: string, protocols: string[]) {
    this.url = url
    this.protocols = protocols
    FakeWebSocket.opened.push(this)
  }

  static get last(): FakeWebSocket {
    const last = FakeWebSocket.opened.at(-1)
    if (!last) throw new Error("no WebSocket was opened")
    return last
  }

  send(frame: Uint8Array): void {
    this.frames.push(sent(frame))
  }

  close(code: number): void {
    this.closedWith = code
    this.readyState = 3
  }

  say(content: Envelope): void {
    this.onmessage?.({ data: envelope(content).buffer })
  }

  end(code: number, reason = ""): void {
    this.readyState = 3
    this.onclose?.({ code, reason })
  }

  welcome(changes: Partial<Record<"pingIntervalMs" | "pongTimeoutMs", number>> & { expiresAt?: bigint } = {}): void {
    this.say({
      case: "welcome",
      value: {
        userId: 7,
        name: "ada",
        expiresAt: BigInt(START / 1000 + 3600),
        pingIntervalMs: 25_000,
        pongTimeoutMs: 10_000,
        messageBytesMax: 65_536,
        ...changes,
      },
    })
  }

  /** The id of the last frame of this kind. */
  id(kind: ClientEnvelope["command"]["case"]): number {
    const frame = this.frames.filter(({ command }) => command.case === kind).at(-1)
    if (!frame) throw new Error(`no ${kind} was sent: ${this.frames.map(({ command }) => command.case).join()}`)
    return frame.id
  }

  subscribed(channelId: number, head = 0, epoch = 5, channelName = "lobby"): void {
    const value = { channelId, channelName, epoch, headSequence: BigInt(head) }
    this.say({ case: "reply", value: { id: this.id("subscribe"), result: { case: "subscribed", value } } })
  }

  messages(channelId: number, first: number, ...bodies: string[]): void {
    const records = bodies.map((body) => ({ userId: 7, content: { case: "body" as const, value: body } }))
    this.say({ case: "messages", value: { channelId, firstSequence: BigInt(first), timestampMs: BigInt(START), records } })
  }
}
