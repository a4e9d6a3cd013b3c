// A real server with a data directory of its own, real users, and pages in a real browser. Whatever the
// browser complains of (errors on the console, exceptions, violations of the policy) fails the test.
//
//   HUBBUB=…/target/debug/hubbub CHROMIUM=/usr/bin/chromium npm run test:browser
//
// With PAGE=dist the page is that of web/dist now, and not the one that the server was built with.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { after, afterEach, before } from "node:test";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { serve } from "../../dev.mjs";

export const DEADLINE_MS = 20_000;
/** When the messages of `fill` were written. */
export const FILLED_FROM_MS = Date.UTC(2025, 0, 1);
const PASSWORD = "correct horse battery";
const HUBBUB = process.env.HUBBUB ?? fileURLToPath(new URL("../../../target/debug/hubbub", import.meta.url));
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";

/** `hubbub serve`, up when this resolves. `restart` comes back at the same address, with what it had. */
export async function startServer(...flags) {
  const folder = await mkdtemp(join(tmpdir(), "hubbub-page-"));
  let listen = "127.0.0.1:0";
  let child;
  async function up() {
    child = spawn(HUBBUB, ["serve", "--listen", listen, "--internal-listen", "127.0.0.1:0", "--data-dir", folder, "--pin-cores", "off", ...flags], { stdio: ["ignore", "pipe", "inherit"] });
    const said = [];
    const address = await new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`the server did not say where it listens: ${said.join("\n")}`)), DEADLINE_MS);
      createInterface({ input: child.stdout }).on("line", (line) => {
        said.push(line);
        const found = /(?:listening on|open) (http:\/\/[^\s]+)/.exec(line)?.[1];
        if (found) {
          clearTimeout(timer);
          resolve(found.replace(/\/$/, ""));
        }
      });
      child.once("error", reject);
      child.once("exit", (code) => reject(new Error(`the server ended with ${code}: ${said.join("\n")}`)));
    });
    listen = new URL(address).host;
    return address;
  }
  async function down(signal = "SIGTERM") {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill(signal);
    await ended;
  }
  /** Asks the internal port, as whoever runs the server. */
  async function admin(method, path, body) {
    const [secret, address] = await Promise.all(["admin-secret", "admin-address"].map((name) => readFile(join(folder, name), "utf8")));
    const response = await fetch(`http://${address.trim()}${path}`, {
      method,
      headers: { authorization: `Bearer ${secret.trim()}`, ...(body && { "content-type": "application/x-ndjson" }) },
      body,
    });
    const answer = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${answer}`);
    return answer;
  }
  const api = await up();
  const pages = process.env.PAGE === "dist" ? await serve(api) : undefined;
  return {
    url: pages?.url ?? api,
    down,
    up,
    admin,
    /** As an operator brings history in: NDJSON lines, by the internal port. */
    importLines: async (lines) => JSON.parse(await admin("POST", "/v1/import", lines.map((line) => `${JSON.stringify(line)}\n`).join(""))),
    /** Appends messages `first`…`last` to a channel, each with its number as its text, a minute apart. */
    fill(channel, first, last, author = "robot") {
      const line = (number) => ({ channel, author, time: FILLED_FROM_MS + number * 60_000, body: `number ${number}` });
      return this.importLines(Array.from({ length: last - first + 1 }, (_, i) => line(first + i)));
    },
    async stop() {
      pages?.close();
      await down();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

async function ask(url, method, path, token, body) {
  const response = await fetch(url + path, {
    method,
    headers: { ...(token && { authorization: `Bearer ${token}` }), ...(body && { "content-type": "application/json" }) },
    body: body && JSON.stringify(body),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${JSON.stringify(answer)}`);
  return answer;
}

/** An account, made over HTTP, that can do what a page can. */
export async function makeUser(url, name) {
  await ask(url, "POST", "/v1/accounts", undefined, { username: name, password: PASSWORD });
  const { access_token: token } = await ask(url, "POST", "/v1/token", undefined, { grant_type: "password", username: name, password: PASSWORD });
  return {
    name,
    password: PASSWORD,
    token,
    createChannel: (channel, more = {}) => ask(url, "POST", "/v1/channels", token, { name: channel, ...more }),
    join: (channel) => ask(url, "PUT", `/v1/channels/${channel}/members/me`, token),
    post: (channel, body) => ask(url, "POST", `/v1/channels/${channel}/messages`, token, { body }),
    ask: (method, path, body) => ask(url, method, path, token, body),
    /** All that a channel holds, from the first to the last. */
    async log(channel) {
      const entries = [];
      for (let after = 0; ; after = entries.at(-1).sequence) {
        const page = await ask(url, "GET", `/v1/channels/${channel}/messages?limit=200&after=${after}`, token);
        entries.push(...page.messages);
        if (page.messages.length === 0 || entries.at(-1).sequence >= page.head_sequence) return entries;
      }
    },
  };
}

/** For a test file: one server and one browser, pages that are closed and looked at after each test. */
export function fixture(...flags) {
  const it = { server: undefined, browser: undefined, url: "" };
  const contexts = [];
  let problems = [];

  before(async () => {
    it.server = await startServer(...flags);
    it.url = it.server.url;
    it.browser = await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox"] });
  });
  after(async () => {
    await it.browser?.close();
    await it.server?.stop();
  });
  afterEach(async () => {
    for (const context of contexts.splice(0)) await context.close();
    const found = problems;
    problems = [];
    assert.deepEqual(found, [], "the browser complained");
  });

  /** What the browser may complain of in this test, such as a server that was stopped on purpose. */
  it.expectProblems = (pattern) => {
    const known = problems.filter((problem) => pattern.test(problem));
    problems = problems.filter((problem) => !pattern.test(problem));
    return known;
  };
  /** Another browser profile: its cookies and storage are its own. */
  it.context = async (options = {}) => {
    const context = await it.browser.newContext({ viewport: { width: 1280, height: 800 }, ...options });
    context.setDefaultTimeout(DEADLINE_MS);
    contexts.push(context);
    await context.addInitScript(() => {
      document.addEventListener("securitypolicyviolation", (event) => {
        console.error(`policy violated: ${event.violatedDirective} by ${event.blockedURI}`);
      });
    });
    context.on("page", (page) => {
      page.on("console", (message) => message.type() === "error" && problems.push(`console: ${message.text()} ${message.location().url}`));
      page.on("pageerror", (error) => problems.push(`exception: ${error.stack ?? error}`));
    });
    return context;
  };
  /** A page that nobody is signed in on. */
  it.open = async (hash = "", { url = it.url, prepare, ...options } = {}) => {
    const page = await (await it.context(options)).newPage();
    await prepare?.(page);
    await page.goto(`${url}/${hash}`);
    return page;
  };
  /** A page on which `user` signed in. */
  it.openAs = async (user, hash = "", options = {}) => {
    const page = await it.open(hash, options);
    await signIn(page, user);
    return page;
  };
  return it;
}

/** Fills in the form of the entrance. */
export async function signIn(page, user) {
  await page.getByLabel("User name").fill(user.name);
  await page.getByLabel("Password").fill(user.password);
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await page.locator(".sidebar").waitFor({ state: "attached" });
}

/** Waits until `condition` answers something true, and answers that. */
export async function until(what, condition, deadlineMs = DEADLINE_MS) {
  for (const end = Date.now() + deadlineMs; ; ) {
    const answer = await condition();
    if (answer) return answer;
    if (Date.now() > end) throw new Error(`in ${deadlineMs} ms it never came to this: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Writes and sends, as a person does. */
export async function say(page, text) {
  const box = page.getByRole("textbox", { name: /^Message #/ });
  await box.fill(text);
  await box.press("Enter");
}
