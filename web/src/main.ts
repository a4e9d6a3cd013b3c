// Starts the page: who is there, then the connection, then the channels.
import { Hubbub, HubbubError, type ConnectionState } from "@hubbub/client";
import { App } from "./app";
import { fill, h } from "./dom";
import { entrance } from "./entrance";
import type { Left } from "./room";
import { Refused, Session, type SignUp } from "./session";
import { applyTheme } from "./theme";
import { placeToasts } from "./toasts";
import { explain } from "./words";

const root = h("div", { class: "page" });
let app: App | undefined;
let hubbub: Hubbub | undefined;
/** What somebody had not sent when the session ended, until they are back. Nobody else sees it. */
let kept: { readonly user: number; readonly left: readonly Left[] } | undefined;

const session = new Session(() => signedOut("You signed out in another tab, or somebody else signed in."));

/** Back to the entrance; `said` tells why, where it was not the user's doing. */
function signedOut(said?: string, signUp?: SignUp): void {
  if (said === undefined) kept = undefined;
  else if (app !== undefined && app.left.length > 0) kept = { user: app.user.id, left: app.left };
  app?.stop();
  app = undefined;
  hubbub?.disconnect();
  hubbub = undefined;
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
  const words = said === undefined ? undefined : `${said} Sign in again${kept === undefined ? "." : ": what you had not sent is kept here until then."}`;
  entrance(root, session, signUp, words, ({ isNew }) => enter(isNew));
}

function enter(isNew: boolean): void {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const client = new Hubbub(`${scheme}://${location.host}/v1/ws`, {
    getToken: async ({ reason }) => {
      try {
        return await session.token(reason !== "connect");
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        const retryAfterMs = error.retryAfterSeconds === undefined ? undefined : error.retryAfterSeconds * 1000;
        throw new HubbubError(error.code, error.message, { retry: error.status !== 401 && error.status !== 403, retryAfterMs });
      }
    },
  });
  hubbub = client;
  waiting("Connecting…");
  client.on("state", (state) => {
    if (client !== hubbub) return;
    if (isOver(state)) signedOut("Your session is over.");
    else if (app === undefined && state.state !== "connected") waiting(describe(state), () => (state.state === "disconnected" ? client.connect() : client.retryNow()));
  });
  client.on("welcome", ({ user }) => {
    if (client !== hubbub || app !== undefined) return;
    app = new App(root, client, session, user, signedOut);
    void app.start(isNew, kept?.user === user.id ? kept.left : []);
    kept = undefined;
  });
  client.on("error", (error) => {
    // A server of an earlier version is no fault of this page.
    if (error.code !== "unknown_command") console.error(error);
  });
  client.connect();
}

function isOver(state: ConnectionState): boolean {
  if (state.state !== "disconnected" || state.reason === undefined) return false;
  const { reason } = state;
  const cause = reason.code === "token" && reason.cause instanceof HubbubError ? reason.cause.code : reason.code;
  return ["not_authenticated", "invalid_token", "token_expired", "forbidden", "wrong_user"].includes(cause);
}

function describe(state: ConnectionState): string {
  if (state.state === "disconnected") return state.reason === undefined ? "Not connected." : explain(state.reason);
  return state.state === "connecting" && state.attempt > 1 ? "The server cannot be reached. Trying again…" : "Connecting…";
}

/** Before the first welcome: one line, and a way to try again. */
function waiting(text: string, retry?: () => void): void {
  const button = h("button", { type: "button", class: "secondary" }, "Try now");
  if (retry !== undefined) button.addEventListener("click", retry);
  fill(root, [h("main", { class: "waiting" }, h("p", { class: "wordmark" }, "hubbub"), h("p", { class: "meta", role: "status" }, text), retry !== undefined && text !== "Connecting…" && button)]);
}

async function start(): Promise<void> {
  try {
    const { signUp, hasCookie } = await session.describe();
    if (hasCookie && (await session.resume())) enter(false);
    else signedOut(undefined, signUp);
  } catch (error) {
    waiting(error instanceof Refused ? error.message : "Something went wrong on this page.", () => {
      waiting("Connecting…");
      void start();
    });
  }
}

addEventListener("beforeunload", (event) => {
  if (kept !== undefined) event.preventDefault();
});
applyTheme();
document.body.append(root);
placeToasts(document.body);
void start();
