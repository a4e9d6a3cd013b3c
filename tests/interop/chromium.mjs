// The peer Chromium, without a window: loads a page of the server's and talks from there. Its input
// is what `converse` needs, as JSON; its output is the result.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync } from "node:fs";
import { rm } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { converse } from "./conversation.mjs";

const require = createRequire(`${process.env.NODE_FOLDER}/package.json`);
const { WebSocket } = require("ws");

const settings = JSON.parse(readFileSync(0, "utf8"));
const profile = mkdtempSync(join(tmpdir(), "hubbub-chromium-"));
const browser = spawn(
  process.env.CHROMIUM,
  [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--remote-debugging-port=0",
    `--user-data-dir=${profile}`,
    "about:blank",
  ],
  // A process group of its own, so that its helper processes end with it.
  { stdio: ["ignore", "ignore", "pipe"], detached: true },
);

try {
  const devtools = await devtoolsAddress();
  const { ask, happens } = await drive(devtools);
  const { targetId } = await ask("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await ask("Target.attachToTarget", { targetId, flatten: true });
  await ask("Page.enable", {}, sessionId);
  const loaded = happens("Page.loadEventFired");
  // What is on the page does not matter: it is of the origin that may connect.
  await ask("Page.navigate", { url: `http://${settings.host}/` }, sessionId);
  await loaded;
  const open = "(address, subprotocols) => new WebSocket(address, subprotocols)";
  const expression = `(${converse})({ ...${JSON.stringify(settings)}, open: ${open} })`;
  const evaluated = await ask(
    "Runtime.evaluate",
    { expression, awaitPromise: true, returnByValue: true },
    sessionId,
  );
  if (evaluated.exceptionDetails) {
    throw new Error(evaluated.exceptionDetails.exception.description);
  }
  console.log(JSON.stringify(evaluated.result.value));
} finally {
  const ended = new Promise((resolve) => browser.once("close", resolve));
  process.kill(-browser.pid, "SIGKILL");
  await ended;
  await removeProfile();
}

// A helper process that is still ending may write into the folder while it is being removed, and
// `rm` does not look again for what came after its listing: so it is called again.
async function removeProfile() {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await rm(profile, { recursive: true, force: true });
    } catch (error) {
      if (error.code !== "ENOTEMPTY" || attempt === 50) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
}

// The address that Chromium says on its error output once it can be driven.
function devtoolsAddress() {
  return new Promise((resolve, reject) => {
    const said = [];
    createInterface({ input: browser.stderr }).on("line", (line) => {
      said.push(line);
      const address = line.match(/^DevTools listening on (ws:\S+)/);
      if (address) resolve(address[1]);
    });
    browser.once("error", reject);
    browser.once("exit", (code) => reject(new Error(`Chromium ended with ${code}: ${said.join("\n")}`)));
  });
}

// A connection to the browser: `ask` calls a method of its protocol, `happens` waits for an event.
async function drive(address) {
  const socket = new WebSocket(address);
  await new Promise((resolve, reject) => {
    socket.once("open", resolve);
    socket.once("error", reject);
  });
  const asked = new Map();
  const awaited = new Map();
  socket.on("message", (data) => {
    const { id, method, result, error } = JSON.parse(data);
    if (id === undefined) {
      awaited.get(method)?.();
    } else if (error) {
      asked.get(id).reject(new Error(error.message));
    } else {
      asked.get(id).resolve(result);
    }
  });
  let last = 0;
  const ask = (method, params, sessionId) =>
    new Promise((resolve, reject) => {
      last += 1;
      asked.set(last, { resolve, reject });
      socket.send(JSON.stringify({ id: last, method, params, sessionId }));
    });
  const happens = (method) => new Promise((resolve) => awaited.set(method, resolve));
  return { ask, happens };
}
