// Who is signed in. The refresh token is a cookie that no script can read; the access token is in
// this page's memory and nowhere else. All tabs share the one cookie, and each renewal trades it, so
// renewals take turns under a lock, and what one tab got it hands to the others.

export type SignUp = "open" | "invite" | "closed";

/** A refusal of the HTTP API, as RFC 9457 has it, or the network's. */
export class Refused extends Error {
  override readonly name = "Refused";
  constructor(
    readonly code: string,
    message: string,
    readonly status: number,
    readonly retryAfterSeconds?: number,
  ) {
    super(message);
  }
}

type Token = { readonly text: string; readonly user: string; readonly expiresAt: number };
type Notice = { readonly kind: "token"; readonly token: Token } | { readonly kind: "out" };

/** How long a tab waits for an answer before it says that there was none. */
const ANSWER_MS_MAX = 15_000;
/** A token with less time than this left is renewed before it is used. */
const FRESH_MS_MIN = 60_000;

export class Session {
  #token: Token | undefined;
  #renewing: Promise<string> | undefined;
  readonly #tabs = new BroadcastChannel("hubbub-session");

  /** `ended`: signed out in another tab, or somebody else signed in there. */
  constructor(readonly ended: () => void) {
    this.#tabs.onmessage = ({ data }: MessageEvent<Notice>) => {
      if (data.kind === "out") {
        if (this.#token !== undefined) this.#end();
      } else if (this.#token !== undefined && this.#token.user !== data.token.user) {
        this.#end();
      } else if (this.#token !== undefined) {
        this.#token = data.token;
      }
    };
  }

  /** What there is to know before anybody signs in. */
  async describe(): Promise<{ signUp: SignUp; hasCookie: boolean }> {
    const { sign_up: signUp, has_cookie: hasCookie } = await ask("GET", "/v1/session");
    return { signUp: signUp === "invite" || signUp === "closed" ? signUp : "open", hasCookie: hasCookie === true };
  }

  async signIn(username: string, password: string): Promise<void> {
    await this.#locked(async () => this.#take(await ask("POST", "/v1/session", { username, password })));
  }

  async makeAccount(username: string, password: string, invite?: string): Promise<void> {
    await ask("POST", "/v1/accounts", invite ? { username, password, invite } : { username, password });
  }

  /** Comes back where the cookie still stands for somebody; `false` where it does not. */
  async resume(): Promise<boolean> {
    try {
      await this.renew();
      return true;
    } catch (error) {
      if (error instanceof Refused && error.status === 401) return false;
      throw error;
    }
  }

  /** A token to use now. Rejects with `Refused`; status 401 means that the session is over. */
  async token(refused: boolean): Promise<string> {
    const token = this.#token;
    if (!refused && token !== undefined && token.expiresAt - Date.now() > FRESH_MS_MIN) return token.text;
    return this.renew();
  }

  /** One renewal at a time, in this tab and in all of them. */
  renew(): Promise<string> {
    this.#renewing ??= this.#renew().finally(() => {
      this.#renewing = undefined;
    });
    return this.#renewing;
  }

  async #renew(): Promise<string> {
    const before = this.#token;
    return this.#locked(async () => {
      // Another tab was first, while this one waited for the lock.
      if (this.#token !== undefined && this.#token !== before) return this.#token.text;
      const user = before?.user;
      const text = this.#take(await ask("POST", "/v1/session/renew"));
      if (user !== undefined && this.#token?.user !== user) this.#end();
      return text;
    });
  }

  async signOut(): Promise<void> {
    await this.#locked(() => ask("DELETE", "/v1/session"));
    this.#token = undefined;
    this.#tabs.postMessage({ kind: "out" } satisfies Notice);
  }

  #take(answer: Record<string, unknown>): string {
    const text = String(answer.access_token);
    const token = { text, user: String(answer.user), expiresAt: Date.now() + Number(answer.expires_in) * 1000 };
    this.#token = token;
    this.#tabs.postMessage({ kind: "token", token } satisfies Notice);
    return text;
  }

  #end(): void {
    this.#token = undefined;
    this.ended();
  }

  /** Browsers have locks in secure contexts only; over plain HTTP tabs have to do without. */
  #locked<T>(work: () => Promise<T>): Promise<T> {
    const locks = (navigator as Partial<Navigator>).locks;
    return locks === undefined ? work() : locks.request("hubbub-session", work);
  }
}

async function ask(method: string, path: string, body?: object): Promise<Record<string, unknown>> {
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      signal: AbortSignal.timeout(ANSWER_MS_MAX),
      credentials: "same-origin",
      cache: "no-store",
      ...(body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
    });
  } catch (error) {
    const late = error instanceof DOMException && error.name === "TimeoutError";
    throw new Refused("unreachable", late ? "The server did not answer in time." : "The server cannot be reached.", 0);
  }
  const answer = (await response.json().catch(() => ({}))) as Record<string, unknown>;
  if (response.ok) return answer;
  const text = answer.detail ?? answer.title ?? `The server answered ${response.status}.`;
  const after = Number(response.headers.get("retry-after"));
  throw new Refused(String(answer.name ?? "internal"), String(text), response.status, after > 0 ? after : undefined);
}
