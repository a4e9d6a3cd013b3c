/** A real server for the tests, and tokens for its users. */
import { spawn, type ChildProcess } from "node:child_process"
import { mkdtemp, rm } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"

/** The server's program. Without it the tests against a server are skipped, and say so. */
export const PROGRAM = process.env["HUBBUB"]
export const SKIP = PROGRAM === undefined && "HUBBUB does not name the server's program"

const PASSWORD = "correct horse battery staple"
const DEADLINE_MS = 20_000

export class Server {
  readonly #process: ChildProcess
  readonly #folder: string
  readonly address: string
  #accounts = 0

  private constructor(process: ChildProcess, folder: string, address: string) {
    this.#process = process
    this.#folder = folder
    this.address = address
  }

  /** `hubbub serve` on free ports, with a data directory of its own. */
  static async start(options: { folder?: string; listen?: string; flags?: string[] } = {}): Promise<Server> {
    const folder = options.folder ?? (await mkdtemp(join(tmpdir(), "hubbub-sdk-")))
    const flags = ["--listen", options.listen ?? "127.0.0.1:0", "--internal-listen", "127.0.0.1:0", "--data-dir", folder, "--pin-cores", "off"]
    const child = spawn(PROGRAM ?? "", ["serve", ...flags, ...(options.flags ?? [])], {
      stdio: ["ignore", "pipe", "inherit"],
    })
    const address = await new Promise<string>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error("the server did not say where it listens")), DEADLINE_MS)
      child.once("error", reject)
      child.once("exit", (code) => reject(new Error(`the server ended with ${code}`)))
      createInterface({ input: child.stdout }).on("line", (line) => {
        const [, found] = /listening on http:\/\/([^ /]+)/.exec(line) ?? []
        if (!found) return
        clearTimeout(timer)
        resolve(found)
      })
    })
    return new Server(child, folder, address)
  }

  get url(): string {
    return `ws://${this.address}/v1/ws`
  }

  /** Ends the process; the data stays for `start({ folder })`. */
  async kill(signal: NodeJS.Signals = "SIGKILL"): Promise<string> {
    const exited = this.#process.exitCode !== null || this.#process.signalCode !== null
    const gone = exited ? Promise.resolve() : new Promise((resolve) => this.#process.once("exit", resolve))
    this.#process.kill(signal)
    await gone
    return this.#folder
  }

  async stop(): Promise<void> {
    await this.kill("SIGTERM")
    await rm(this.#folder, { recursive: true, force: true })
  }

  /** A new account, and its tokens. */
  async login(name = `user-${++this.#accounts}`): Promise<{ name: string; token: string; refreshToken: string }> {
    const account = { username: name, password: PASSWORD }
    await this.post("/v1/accounts", account)
    const body = await this.post("/v1/token", { grant_type: "password", ...account })
    return { name, token: String(body["access_token"]), refreshToken: String(body["refresh_token"]) }
  }

  async post(path: string, body: unknown): Promise<{ [field: string]: unknown }> {
    const answer = await fetch(`http://${this.address}${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(DEADLINE_MS),
    })
    const text = await answer.text()
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${text}`)
    return text ? (JSON.parse(text) as { [field: string]: unknown }) : {}
  }
}
