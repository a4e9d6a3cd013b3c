// The timeline on made-up messages (demo/), in a real browser and under the page's policy: no server.
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { after, afterEach, before, test } from "node:test";
import { fileURLToPath } from "node:url";
import axe from "axe-core";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { traced } from "./trace.mjs";

const ROWS_MAX = 200;
const FRAME_MS_MAX = 50;
const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; base-uri 'none'; " +
  "require-trusted-types-for 'script'; trusted-types 'none'";

const web = fileURLToPath(new URL("../..", import.meta.url));
let server;
let browser;
let problems = [];
const pages = [];

before(async () => {
  const { outputFiles } = await build({
    absWorkingDir: web,
    entryPoints: ["demo/timeline.ts", "demo/timeline.css"],
    outdir: "target/demo",
    bundle: true,
    format: "esm",
    target: "es2022",
    write: false,
    alias: { "@hubbub/client": "../sdk/typescript/src/index.ts" },
  });
  const files = new Map(outputFiles.map((file) => [file.path.slice(file.path.lastIndexOf("/")), file.contents]));
  files.set("/timeline.html", await readFile(`${web}/demo/timeline.html`));
  const types = { js: "text/javascript", css: "text/css", html: "text/html" };
  server = createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://localhost");
    const file = files.get(pathname);
    response.writeHead(file === undefined ? 404 : 200, {
      "content-type": `${types[pathname.split(".").at(-1)] ?? "text/plain"}; charset=utf-8`,
      "content-security-policy": POLICY,
    });
    response.end(file);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"] });
});

after(async () => {
  await browser?.close();
  server?.close();
});

afterEach(async () => {
  for (const page of pages.splice(0)) await page.close();
  const found = problems.filter((problem) => !problem.includes("favicon"));
  problems = [];
  assert.deepEqual(found, [], "the browser complained");
});

async function open(query, { width = 1280, height = 800 } = {}) {
  const page = await browser.newPage({ viewport: { width, height } });
  pages.push(page);
  page.on("pageerror", (error) => problems.push(error.stack));
  page.on("console", (message) => message.type() === "error" && problems.push(`${message.text()} ${message.location().url}`));
  await page.addInitScript(() => {
    const original = requestAnimationFrame.bind(window);
    window.frames_ms = [];
    window.requestAnimationFrame = (callback) =>
      original((time) => {
        const begin = performance.now();
        callback(time);
        window.frames_ms.push(performance.now() - begin);
      });
    window.frame = () => new Promise((resolve) => original(() => original(resolve)));
    window.scroller = () => document.querySelector(".timeline-scroll");
  });
  await page.goto(`http://127.0.0.1:${server.address().port}/timeline.html${query}`);
  await page.waitForSelector(".row.message");
  await page.evaluate(() => window.frame());
  return page;
}

const lastText = (page) => page.evaluate(() => [...document.querySelectorAll(".row .body")].at(-1)?.textContent);
const isAtEnd = (page) =>
  page.evaluate(() => {
    const { scrollTop, scrollHeight, clientHeight } = window.scroller();
    return scrollHeight - scrollTop - clientHeight < 2;
  });

test("50,000 messages scroll from end to end without a long frame and with few elements", async (t) => {
  const page = await open("?n=50000&loaded=50000");
  assert.ok(await isAtEnd(page));
  const { result: { rows, steps }, pieces: frames, worst } = await traced(browser, page, () => page.evaluate(async () => {
    const scroller = window.scroller();
    scroller.scrollTop = 0;
    await window.frame();
    let [rows, steps] = [0, 0];
    for (let last = -1; scroller.scrollTop !== last; steps++) {
      last = scroller.scrollTop;
      scroller.scrollTop += steps % 5 === 4 ? 100_000 : 900;
      await new Promise((resolve) => requestAnimationFrame(resolve));
      rows = Math.max(rows, document.querySelectorAll(".row").length);
    }
    return { rows, steps };
  }), new Set(["FireAnimationFrame"]));
  t.diagnostic(`${frames.length} frames, the longest ${worst.toFixed(1)} ms; at most ${rows} rows are elements`);
  assert.ok(frames.length >= steps, `${frames.length} frames were traced`);
  assert.ok(worst <= FRAME_MS_MAX, `the longest frame took ${worst} ms`);
  assert.ok(rows < ROWS_MAX, `${rows} rows are elements`);
  assert.ok(steps > 100, `${steps} steps`);
  assert.equal(await isAtEnd(page), true);
});

test("history that is loaded above does not move what is read", async () => {
  for (const size of [{ width: 1280, height: 800 }, { width: 390, height: 844 }]) {
    const page = await open("?n=3000&loaded=100&delay=20", size);
    const { worst, loads } = await page.evaluate(async () => {
      let worst = 0;
      const loadsBefore = window.source.loads;
      for (let round = 0; round < 4; round++) {
        window.scroller().scrollTop = round % 2 === 0 ? 0 : 400;
        await window.frame();
        const top = window.scroller().getBoundingClientRect().top;
        const row = [...document.querySelectorAll(".row.message")].find((it) => it.getBoundingClientRect().bottom > top + 80);
        const y = row.getBoundingClientRect().top;
        for (let i = 0; i < 10; i++) {
          await window.frame();
          worst = Math.max(worst, row.isConnected ? Math.abs(row.getBoundingClientRect().top - y) : Number.POSITIVE_INFINITY);
        }
      }
      return { worst, loads: window.source.loads - loadsBefore };
    });
    assert.ok(loads >= 3, `${loads} pages were loaded`);
    assert.ok(worst <= 1, `it moved by ${worst} px`);
  }
});

test("scrolling moves what is read by exactly as much, whatever turns out to be of another height", async () => {
  const page = await open("?n=50000&loaded=3000");
  const worst = await page.evaluate(async () => {
    let worst = 0;
    window.scroller().scrollTop -= 40_000;
    await window.frame();
    for (let step = 0; step < 60; step++) {
      const top = window.scroller().getBoundingClientRect().top;
      const row = [...document.querySelectorAll(".row.message")].find((it) => it.getBoundingClientRect().top > top + 100);
      const y = row.getBoundingClientRect().top;
      window.scroller().scrollTop -= 60;
      await window.frame();
      worst = Math.max(worst, row.isConnected ? Math.abs(row.getBoundingClientRect().top - y - 60) : Number.POSITIVE_INFINITY);
    }
    return worst;
  });
  assert.ok(worst <= 1, `off by ${worst} px`);
});

test("the list stays at the newest message, and where it is when one reads further up", async () => {
  const page = await open("?n=300&loaded=300");
  for (let i = 0; i < 5; i++) {
    await page.evaluate((i) => window.source.receive(`live ${i}\n`.repeat(1 + i * 3)), i);
    await page.evaluate(() => window.frame());
    assert.ok(await isAtEnd(page), `after ${i}`);
  }
  assert.equal(await page.evaluate(() => window.said.isAtNewest), true);
  assert.equal(await page.getAttribute(".timeline-rows", "aria-live"), "polite");
  await page.evaluate(async () => {
    window.scroller().scrollTop -= 900;
    await window.frame();
  });
  const y = await page.evaluate(() => window.scroller().scrollTop);
  for (let i = 0; i < 3; i++) await page.evaluate(() => window.source.receive("while you read"));
  await page.evaluate(() => window.frame());
  assert.equal(await page.evaluate(() => window.scroller().scrollTop), y);
  assert.equal(await page.evaluate(() => window.said.isAtNewest), false);
  assert.equal(await page.getAttribute(".timeline-rows", "aria-live"), "off");
  assert.equal(await page.textContent(".timeline-pill"), "3 new");
  await page.click(".timeline-pill");
  await page.evaluate(() => window.frame());
  assert.ok(await isAtEnd(page));
  assert.equal(await lastText(page), "while you read");
  assert.ok(await page.isHidden(".timeline-pill"));
});

test("what is written shows at once, stays in its place when it is delivered, and says when it failed", async () => {
  const page = await open("?n=50");
  await page.evaluate(async () => {
    window.source.log.publish("77", "on its way", Date.now());
    window.timeline.changed();
    await window.frame();
    window.mine = [...document.querySelectorAll(".row.outgoing")].at(-1);
    window.mine.focus();
  });
  assert.equal(await page.evaluate(() => window.mine.className.includes("pending")), true);
  await page.evaluate(async () => {
    window.source.log.acknowledge("77", 51, Date.now());
    window.timeline.changed();
    await window.frame();
    window.source.receive("on its way", 1, "77");
    await window.frame();
  });
  assert.deepEqual(await page.evaluate(() => [window.mine.isConnected, window.mine.className.includes("message"), document.activeElement === window.mine]), [true, true, true]);
  assert.equal(await page.evaluate(() => [...document.querySelectorAll(".body")].filter((it) => it.textContent === "on its way").length), 1);

  await page.evaluate(async () => {
    window.source.log.publish("78", "refused", Date.now());
    window.source.log.fail("78", "the channel is archived");
    window.timeline.changed();
    await window.frame();
  });
  assert.match(await page.textContent(".row.failed"), /Not sent: the channel is archived/);
  await page.click(".row.failed >> text=Try again");
  await page.evaluate(() => window.frame());
  assert.equal(await page.locator(".row.pending").count(), 1);
});

test("the keyboard walks through messages that are not drawn yet, and is never lost", async () => {
  const page = await open("?n=2000&loaded=2000");
  await page.evaluate(() => window.timeline.focus());
  const focused = () => page.evaluate(() => document.activeElement?.className ?? "");
  for (let i = 0; i < 60; i++) {
    await page.keyboard.press("ArrowUp");
    assert.match(await focused(), /\brow\b/, `after ${i + 1}`);
    const isIn = await page.evaluate(() => {
      const [row, view] = [document.activeElement.getBoundingClientRect(), window.scroller().getBoundingClientRect()];
      return row.bottom > view.top && row.top < view.bottom;
    });
    assert.ok(isIn, `out of view after ${i + 1}`);
  }
  // Scrolled far away the row is no element any more: the list has the focus, and gives it back.
  await page.evaluate(async () => {
    window.kept = document.activeElement.textContent;
    window.y = window.scroller().scrollTop;
    window.scroller().scrollTop = 0;
    await window.frame();
  });
  assert.match(await focused(), /timeline-scroll/);
  await page.evaluate(async () => {
    window.scroller().scrollTop = window.y;
    await window.frame();
  });
  assert.ok(await page.evaluate(() => document.activeElement.textContent === window.kept));
  await page.keyboard.press("End");
  await page.evaluate(() => window.frame());
  assert.ok(await isAtEnd(page));
  assert.match(await focused(), /\brow\b/);
  assert.equal(await page.locator(".row[tabindex='0']").count(), 1);
});

test("a permalink leads to a message that was not loaded, and the gap beside it loads as one scrolls", async () => {
  const page = await open("?n=50000&loaded=50", { width: 390, height: 844 });
  await page.evaluate(() => window.timeline.jumpTo(20_000));
  await page.evaluate(() => window.frame());
  const marked = await page.locator(".row.marked").boundingBox();
  assert.ok(marked.y > 44 && marked.y < 600, `at ${marked.y}`);
  const link = await page.locator(".row.marked a.time").getAttribute("href");
  assert.equal(link, "#lobby/20000");
  for (let i = 0; i < 60; i++) {
    await page.evaluate(async () => {
      window.scroller().scrollTop += 500;
      await window.frame();
    });
  }
  assert.ok(await page.evaluate(() => window.source.log.entry(20_200) !== undefined));
  await page.click(".timeline-pill");
  await page.evaluate(() => window.frame());
  assert.ok(await isAtEnd(page));
  assert.equal(await page.evaluate(() => window.said.isAtNewest), true);
});

test("a gap says what is missing, loads it, and says when it cannot", async () => {
  const page = await open("?n=100&loaded=20");
  await page.evaluate(async () => {
    window.source.log.reach(138);
    window.source.failure = "busy";
    window.timeline.changed();
    await window.frame();
  });
  assert.match(await page.textContent(".row.gap"), /38 messages were not loaded/);
  await page.click(".row.gap >> text=Load them");
  await page.waitForSelector(".row.gap .why >> text=busy");
  await page.evaluate(() => {
    window.source.failure = undefined;
    for (let i = 0; i < 38; i++) window.source.receive("late");
  });
  await page.evaluate(() => window.frame());
  assert.equal(await page.locator(".row.gap").count(), 0);
});

test("what people write and are called stays text", async () => {
  const page = await open("?n=3");
  const corpus = [
    "<img src=x onerror=alert(1)>", "<svg onload=alert(1)>", "</script><script>alert(1)</script>", "<iframe srcdoc='<b>x'>",
    "[x](javascript:alert(1))", "javascript:alert(1)", "data:text/html,x", "https://example.org/\"onmouseover=\"alert(1)", "<style>*{display:none}</style>",
  ];
  const found = await page.evaluate(async (corpus) => {
    for (const text of corpus) window.source.receive(text, 10);
    await window.frame();
    const list = document.querySelector(".timeline-rows");
    return {
      bodies: [...list.querySelectorAll(".body")].slice(-corpus.length).map((it) => it.textContent),
      foreign: list.querySelectorAll("img, svg:not(.icon), script, iframe, style, object, embed, form, input").length,
      links: [...list.querySelectorAll(".body a")].map((it) => [it.protocol, it.rel, it.target, it.attributes.length]),
      name: [...list.querySelectorAll(".name")].at(-1).textContent,
    };
  }, corpus);
  assert.deepEqual(found.bodies, corpus);
  assert.equal(found.foreign, 0);
  assert.equal(found.name, "h4x<b>or</b>");
  for (const [protocol, rel, target] of found.links) {
    assert.equal(protocol, "https:");
    assert.equal(rel, "noopener noreferrer nofollow");
    assert.equal(target, "_blank");
  }
});

test("a line of 64 KiB is cut, opens in steps, and never makes the list wider than the window", async () => {
  const page = await open("?n=3", { width: 390, height: 844 });
  for (const text of ["x".repeat(65_536), "a\n".repeat(8_000), "https://a.example ".repeat(3_640)]) {
    const worst = await page.evaluate(async (text) => {
      window.source.receive(text);
      window.timeline.showNewest();
      await window.frame();
      window.frames_ms.length = 0;
      for (let i = 0; i < 60; i++) {
        const button = [...document.querySelectorAll(".row")].at(-1).querySelector("[data-act=expand]");
        if (button === null) break;
        button.click();
        await window.frame();
      }
      return Math.max(...window.frames_ms);
    }, text);
    assert.ok(worst < 400, `a frame of ${worst} ms`);
    assert.equal(await page.evaluate(() => window.scroller().scrollWidth - window.scroller().clientWidth), 0);
    assert.equal(await page.evaluate(() => [...document.querySelectorAll(".row .body")].at(-1).textContent.length), text.length);
    await page.click(".row >> nth=-1 >> text=Show less");
  }
});

test("the day of what is read is named at the top, leads elsewhere, and gives the keyboard back", async () => {
  const page = await open("?n=5000&loaded=5000");
  await page.evaluate(async () => {
    window.scroller().scrollTop -= 90_000;
    await window.frame();
  });
  const label = page.locator(".timeline-day button");
  const before = await label.textContent();
  await label.click();
  assert.ok(await page.isVisible(".timeline-jump"));
  await label.click();
  assert.ok(await page.isHidden(".timeline-jump"));
  await label.click();
  await page.click(".timeline-jump >> text=Beginning");
  await page.evaluate(() => window.frame());
  assert.equal(await page.evaluate(() => window.scroller().scrollTop), 0);
  assert.match(await page.evaluate(() => document.activeElement.className), /\brow\b/);
  // Down again: at each step the label names the last day line that went past the top.
  const seen = await page.evaluate(async () => {
    const wrong = [];
    for (let i = 0; i < 150; i++) {
      window.scroller().scrollTop += 37;
      await window.frame();
      const top = window.scroller().getBoundingClientRect().top;
      const past = [...document.querySelectorAll(".row.day")].filter((it) => it.getBoundingClientRect().top < top - 7).at(-1);
      const label = document.querySelector(".timeline-day");
      if (past !== undefined && (label.hidden || label.textContent !== past.textContent)) wrong.push([past.textContent, label.textContent]);
    }
    return { wrong, days: document.querySelectorAll(".row.day").length };
  });
  assert.deepEqual(seen.wrong, []);
  assert.notEqual(before, await label.textContent());
});

test("reading begins at the first unread message, unless all of them fit into the view", async () => {
  const page = await open("?n=300&loaded=300&unread=200");
  const top = await page.evaluate(() => document.querySelector(".row.unread").getBoundingClientRect().top - window.scroller().getBoundingClientRect().top);
  assert.ok(top > 50 && top < 200, `the line is at ${top}`);
  assert.equal(await page.evaluate(() => window.said.isAtNewest), false);
  assert.ok(await page.evaluate(() => window.said.read >= 200 && window.said.read < 260));
  const few = await open("?n=300&loaded=300&unread=298");
  assert.ok(await isAtEnd(few));
  assert.deepEqual(await few.evaluate(() => window.said), { read: 300, isAtNewest: true });
  assert.equal(await few.locator(".row.unread").count(), 1);
});

test("those who cannot see the page find nothing wrong with it", async () => {
  for (const theme of ["light", "dark"]) {
    const page = await open(`?n=300&loaded=60&unread=290&theme=${theme}`);
    await page.evaluate(async () => {
      window.SPECIAL.forEach((text, i) => window.source.receive(text, 1 + (i % 12)));
      window.source.log.publish("1", "pending", Date.now());
      window.source.log.publish("2", "refused", Date.now());
      window.source.log.fail("2", "the channel is archived");
      window.source.log.reach(330);
      window.timeline.changed();
      window.timeline.showNewest();
      await new Promise((resolve) => setTimeout(resolve, 500));
    });
    // Evaluated as it is: a script element would be against the policy.
    await page.evaluate(axe.source);
    const { violations } = await page.evaluate(() => window.axe.run(document.querySelector("#timeline")));
    assert.deepEqual(violations.map(({ id, nodes }) => [id, nodes.map((node) => node.html.slice(0, 120))]), [], theme);
  }
});
