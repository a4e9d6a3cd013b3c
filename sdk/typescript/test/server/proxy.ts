/**
 * A proxy that knows WebSocket frames and misbehaves with those of the server: drops, repeats, delays
 * and cuts them, closes with any code, and accepts connections that it never serves.
 */
import { createServer, connect, type AddressInfo, type Server as TcpServer, type Socket } from "node:net"

export type Fault = "drop" | "repeat" | "delay" | "cut" | "close" | "stall" | "half-open"

export interface Plan {
  /** How likely each is, from 0 to 1: the last per connection, the others per frame of the server. */
  faults: { [fault in Fault]?: number }
  /** What a `close` says, in turn. */
  closes?: [code: number, reason: string][]
  random?: () => number
}

export class Proxy {
  readonly #listener: TcpServer
  readonly #upstream: { host: string; port: number }
  readonly #sockets = new Set<Socket>()
  #plan: Plan
  #closes = 0
  /** How often each was done. */
  readonly done = new Map<Fault, number>()
  connections = 0

  private constructor(upstream: string, plan: Plan) {
    const [host = "", port = ""] = upstream.split(":")
    this.#upstream = { host, port: Number(port) }
    this.#plan = plan
    this.#listener = createServer((client) => this.#accept(client))
  }

  static async start(upstream: string, plan: Plan = { faults: {} }): Promise<Proxy> {
    const proxy = new Proxy(upstream, plan)
    await new Promise<void>((resolve) => proxy.#listener.listen(0, "127.0.0.1", resolve))
    return proxy
  }

  get url(): string {
    return `ws://127.0.0.1:${(this.#listener.address() as AddressInfo).port}/v1/ws`
  }

  /** From now on, also on connections that are open. */
  plan(plan: Plan): void {
    this.#plan = plan
  }

  /** Ends every connection, without a word. */
  breakAll(): void {
    for (const socket of this.#sockets) socket.destroy()
  }

  async stop(): Promise<void> {
    this.breakAll()
    await new Promise((resolve) => this.#listener.close(resolve))
  }

  #happens(fault: Fault): boolean {
    const happens = (this.#plan.random ?? Math.random)() < (this.#plan.faults[fault] ?? 0)
    if (happens) this.done.set(fault, (this.done.get(fault) ?? 0) + 1)
    return happens
  }

  #keep(socket: Socket): void {
    this.#sockets.add(socket)
    socket.setNoDelay(true)
    socket.on("close", () => this.#sockets.delete(socket))
    // The other end may be gone; its close event follows.
    socket.on("error", () => {})
  }

  #accept(client: Socket): void {
    this.connections += 1
    this.#keep(client)
    if (this.#happens("half-open")) {
      client.resume()
      return
    }
    const server = connect(this.#upstream)
    this.#keep(server)
    client.pipe(server)
    client.on("close", () => server.destroy())
    server.on("close", () => client.destroy())
    void this.#relay(server, client)
  }

  /** The server's side, frame by frame. */
  async #relay(server: Socket, client: Socket): Promise<void> {
    let buffer: Buffer<ArrayBufferLike> = Buffer.alloc(0)
    let isUpgraded = false
    try {
      for await (const chunk of server) {
        buffer = Buffer.concat([buffer, chunk as Buffer])
        if (!isUpgraded) {
          const end = buffer.indexOf("\r\n\r\n")
          if (end < 0) continue
          client.write(buffer.subarray(0, end + 4))
          buffer = buffer.subarray(end + 4)
          isUpgraded = true
        }
        for (let length = frameLength(buffer); length > 0 && length <= buffer.length; length = frameLength(buffer)) {
          const frame = buffer.subarray(0, length)
          buffer = buffer.subarray(length)
          if (!(await this.#pass(frame, client))) {
            server.destroy()
            return
          }
        }
      }
    } catch {
      // The server's end broke: so does the client's.
    }
    client.destroy()
  }

  /** One frame. Answers whether the connection goes on. */
  async #pass(frame: Buffer, client: Socket): Promise<boolean> {
    if (this.#happens("drop")) return true
    if (this.#happens("delay")) await new Promise((resolve) => setTimeout(resolve, 5 + 25 * Math.random()))
    if (this.#happens("cut")) {
      client.write(frame.subarray(0, Math.ceil(frame.length / 2)))
      client.destroySoon()
      return false
    }
    if (this.#happens("close")) {
      const closes = this.#plan.closes ?? [[4000, ""]]
      const [code, reason] = closes[this.#closes++ % closes.length] ?? [4000, ""]
      client.end(closeFrame(code, reason))
      return false
    }
    if (this.#happens("stall")) {
      // Takes everything from now on, and says nothing more.
      await new Promise((resolve) => client.on("close", resolve))
      return false
    }
    client.write(frame)
    if (this.#happens("repeat")) client.write(frame)
    return true
  }
}

/** The length of the first frame with its head; 0 while the head is not whole. Server frames have no mask. */
function frameLength(buffer: Buffer): number {
  if (buffer.length < 2) return 0
  const short = (buffer[1] ?? 0) & 0x7f
  if (short < 126) return 2 + short
  if (short === 126) return buffer.length < 4 ? 0 : 4 + buffer.readUInt16BE(2)
  return buffer.length < 10 ? 0 : 10 + Number(buffer.readBigUInt64BE(2))
}

function closeFrame(code: number, reason: string): Buffer {
  const payload = Buffer.concat([Buffer.from([code >> 8, code & 0xff]), Buffer.from(reason)])
  return Buffer.concat([Buffer.from([0x88, payload.length]), payload])
}
