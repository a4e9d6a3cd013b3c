/** One WebSocket: of a browser, or of the package `ws`. */

/** What this client needs of a WebSocket: that of browsers and that of `ws` both have it. */
export interface WebSocketLike {
  binaryType: string
  readonly readyState: number
  // Their events have different types; what is read of them is looked at.
  onmessage: ((event: any) => void) | null
  onclose: ((event: any) => void) | null
  onerror: ((event: any) => void) | null
  send(data: Uint8Array<ArrayBuffer>): void
  close(code?: number): void
  /** Of `ws`: drops the connection without a word. */
  terminate?(): void
}

export type WebSocketClass = new (url: string, protocols: string[]) => WebSocketLike

const OPEN = 1
const SUBPROTOCOL = "hubbub.v1.proto"
const BEARER_PREFIX = "hubbub.bearer."

export interface SocketEvents {
  /** Undefined: a frame of text, where bytes were agreed on. */
  frame(bytes: Uint8Array | undefined): void
  /** Called once, and nothing after it; not after `close`. */
  closed(code: number, reason: string): void
}

export interface Socket {
  send(frame: Uint8Array<ArrayBuffer>): void
  /** Politely: with a close frame, for which the server has time. Else without waiting for anybody. */
  close(politely: boolean): void
}

/** Opens one. Throws what the constructor throws. */
export function openSocket(
  WebSocket: WebSocketClass,
  url: string,
  token: string,
  events: SocketEvents,
): Socket {
  const socket = new WebSocket(url, [SUBPROTOCOL, BEARER_PREFIX + base64Url(token)])
  let isOver = false
  socket.binaryType = "arraybuffer"
  socket.onmessage = ({ data }: { data: unknown }) => {
    if (!isOver) events.frame(data instanceof ArrayBuffer ? new Uint8Array(data) : undefined)
  }
  socket.onclose = ({ code, reason }: { code: number; reason: string }) => {
    if (isOver) return
    isOver = true
    events.closed(code, reason)
  }
  // A close event follows, and tells more. Without a listener `ws` would end the process.
  socket.onerror = () => {}
  return {
    send(frame) {
      if (!isOver && socket.readyState === OPEN) socket.send(frame)
    },
    close(politely) {
      isOver = true
      // `ws` can drop a connection; a browser can only say goodbye and forget it.
      if (!politely && socket.terminate) socket.terminate()
      else socket.close(1000)
    },
  }
}

function base64Url(text: string): string {
  const bytes = new TextEncoder().encode(text)
  const base64 = btoa(String.fromCharCode(...bytes))
  return base64.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")
}
