// Eyes on a page and on what it sends, and a network that can be taken away from it.
import { once } from "node:events";
import net from "node:net";

/** The fields of `ClientEnvelope`. */
const COMMANDS = { 2: "publish", 3: "subscribe", 4: "unsubscribe", 5: "history", 6: "authenticate", 7: "users", 9: "getChannel", 18: "listMemberships", 21: "sendTyping", 22: "markRead" };

/** Makes the client's back-off certain: each wait is the longest that is due, times `luck`. */
export function noLuck(page, luck = 0.999) {
  return page.addInitScript((luck) => {
    window.luck = luck;
    Math.random = () => window.luck;
  }, luck);
}

/** All commands that the page sends from now on, with the connection that they went through. */
export function commandsOf(page) {
  const sent = [];
  let sockets = 0;
  page.on("websocket", (socket) => {
    const connection = ++sockets;
    socket.on("framesent", ({ payload }) => typeof payload !== "string" && sent.push({ connection, ...command(payload) }));
  });
  return { sent, of: (name) => sent.filter((it) => it.name === name), get connections() { return sockets; } };
}

/** The command in a frame, and its bytes without the number that it was given. */
function command(frame) {
  let at = 0;
  const number = () => {
    let value = 0;
    for (let shift = 1; ; shift *= 128) {
      const byte = frame[at++];
      value += (byte & 127) * shift;
      if (byte < 128) return value;
    }
  };
  while (at < frame.length) {
    const tag = number();
    const size = number();
    if (tag % 8 !== 2) continue;
    return { name: COMMANDS[tag >> 3] ?? String(tag >> 3), bytes: frame.subarray(at, at + size).toString("hex") };
  }
  return { name: "", bytes: "" };
}

/** A network between the page and `url`. `hold`: everything that is there falls silent, and what is new is
 * accepted and gets no answer; with "answers" only these are swallowed. `release` breaks these connections off and lets new ones through. `latencyMs` is that of both ways together. */
export async function proxy(url, { latencyMs = 0, bytesPerSecond = Infinity } = {}) {
  const { hostname, port } = new URL(url);
  /** What does not come through: nothing does, or no answers do. */
  let held;
  const pairs = new Set();
  /** What one end says comes out of the other one later, in order. */
  function line(pair, kind, from, to) {
    let free = 0;
    const later = (size, run) => {
      const now = performance.now();
      free = Math.max(free, now) + (size / bytesPerSecond) * 1_000;
      const isHeld = () => pair.held === "all" || pair.held === kind;
      setTimeout(() => isHeld() || run(), free - now + latencyMs / 2);
    };
    from.on("error", () => undefined);
    from.on("data", (bytes) => later(bytes.length, () => to.write(bytes)));
    from.on("close", () => later(0, () => to.destroy()));
  }
  const server = net.createServer((near) => {
    const pair = { near, far: net.connect(Number(port), hostname), held };
    pairs.add(pair);
    line(pair, "questions", near, pair.far);
    line(pair, "answers", pair.far, near);
    near.on("close", () => {
      pairs.delete(pair);
      if (pair.held) pair.far.destroy();
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    hold(what = "all") {
      held = what;
      for (const pair of pairs) pair.held = what;
    },
    release() {
      held = undefined;
      // What a browser keeps for its next requests would be dead as well: it learns of that.
      for (const pair of pairs) if (pair.held) pair.near.destroy();
    },
    close() {
      server.close();
      for (const pair of pairs) {
        pair.held = "all";
        pair.near.destroy();
        pair.far.destroy();
      }
    },
  };
}

/** From now on: the fewest rows that were ever drawn, and whether the list was made anew. */
export async function watchRows(page) {
  await page.evaluate(() => {
    const list = document.querySelector(".timeline-rows");
    const count = () => document.querySelectorAll(".timeline-rows > .row").length;
    const rows = { atFirst: count(), fewest: count(), isSame: true };
    window.rowsSeen = rows;
    new MutationObserver(() => {
      rows.isSame &&= document.querySelector(".timeline-rows") === list;
      rows.fewest = Math.min(rows.fewest, count());
    }).observe(document.querySelector("main"), { childList: true, subtree: true });
  });
  return () => page.evaluate(() => window.rowsSeen);
}

/** From now on: how far, in pixels and in any frame, the message in the middle of the view ever was from its place. */
export async function watchPlace(page) {
  await page.evaluate(() => {
    const { top, height } = document.querySelector(".timeline-scroll").getBoundingClientRect();
    const row = [...document.querySelectorAll(".row.message")].find((it) => it.getBoundingClientRect().bottom > top + height / 2);
    const y = row.getBoundingClientRect().top;
    window.strayed = 0;
    const look = () => {
      window.strayed = Math.max(window.strayed, row.isConnected ? Math.abs(row.getBoundingClientRect().top - y) : 1e9);
      requestAnimationFrame(look);
    };
    look();
  });
  return () => page.evaluate(() => window.strayed);
}

/** Reads the whole channel from the beginning to the newest. Answers the messages as they are drawn, by sequence, and
 * what is wrong with their order. */
export function readAll(page) {
  return page.evaluate(async () => {
    const scroller = document.querySelector(".timeline-scroll");
    const frame = () => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
    const end = performance.now() + 15_000;
    const messages = new Map();
    const wrong = [];
    while (document.querySelector(".row.top.beginning") === null || scroller.scrollTop > 0) {
      if (performance.now() > end) return { messages: [], wrong: ["the beginning was not reached"] };
      scroller.scrollTop = 0;
      await frame();
    }
    for (let last = -1; scroller.scrollTop !== last; ) {
      let before = 0;
      for (const row of document.querySelectorAll(".timeline-rows > .row")) {
        if (row.matches(".outgoing, .gap")) wrong.push(row.textContent);
        const link = row.querySelector("a.time");
        if (link === null) continue;
        const sequence = Number(link.getAttribute("href").split("/")[1]);
        if (before !== 0 && sequence !== before + 1) wrong.push(`${sequence} after ${before}`);
        before = sequence;
        if (row.matches(".message")) messages.set(sequence, row.querySelector(".body").textContent);
      }
      last = scroller.scrollTop;
      scroller.scrollTop += scroller.clientHeight * 0.8;
      await frame();
    }
    return { messages: [...messages], wrong };
  });
}
