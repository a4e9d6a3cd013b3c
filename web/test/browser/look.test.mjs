// How the page looks and is reached: by keyboard, by those who hear it, on small windows, at a slow start.
import assert from "node:assert/strict";
import { test } from "node:test";
import axe from "axe-core";
import { fixture, makeUser, say, until } from "./harness.mjs";

const it = fixture();
const PHONE = { viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true };
const TRANSFER_BYTES_MAX = 100 * 1024;
const SHIFT_MAX = 0.02;
/** Generous: the figures are printed, and a machine may be slow. What never comes is found by it. */
const START_MS_MAX = 3_000;

const heading = (page, name) => page.getByRole("heading", { level: 1, name, exact: true });
const composer = (page) => page.getByRole("textbox", { name: /^Message #/ });

/** Nothing serious may be wrong with what is shown now. */
async function look(page, state, rules = {}) {
  // Evaluated as it is: a script element would be against the policy.
  if (!(await page.evaluate(() => "axe" in window))) await page.evaluate(axe.source);
  await page.evaluate(() => Promise.all(document.getAnimations().map((it) => it.finished.catch(() => undefined))));
  const { violations } = await page.evaluate((rules) => window.axe.run(document, { resultTypes: ["violations"], ...rules }), rules);
  const bad = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  assert.deepEqual(bad.map(({ id, nodes }) => [id, nodes.map((node) => `${node.target}: ${node.html.slice(0, 140)}`)]), [], state);
  const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
  assert.ok(overflow <= 0, `${state}: ${overflow} px wider than the window`);
}

const talk = (n) => Array.from({ length: n }, (_, i) => ["Is anybody there?", "Yes: https://example.org/a/rather/long/address?that=goes&on=and-on", "```\nlet code = 1;\n```", "`one` or two :tada:", "مرحبا بالعالم", "🎉"][i % 6]);
const lines = (channel, n) => talk(n).map((body, i) => ({ channel, author: ["mona", "per", "رنا"][Math.floor(i / 4) % 3], time: Date.now() - (n - i) * 3_600_000, body }));

for (const colorScheme of ["light", "dark"]) {
  // What another theme can change is the colours.
  const rules = colorScheme === "dark" ? { runOnly: ["color-contrast"] } : {};
  const lookAt = (page, state) => look(page, state, rules);
  test(`nothing serious is wrong with any state of the page, ${colorScheme}`, async () => {
    const user = await makeUser(it.url, `axel-${colorScheme}`);
    const [few, many] = [`few-${colorScheme}`, `many-${colorScheme}`];
    await user.createChannel(`empty-${colorScheme}`);
    await it.server.importLines([...lines(few, 3), ...lines(many, 50)]);
    for (const name of [few, many]) await user.join(name);

    const out = await it.open("", { colorScheme });
    await out.getByRole("heading", { name: "Sign in" }).waitFor();
    await lookAt(out, "signed out");
    await out.getByRole("button", { name: "Make an account" }).click();
    await out.getByLabel("User name").fill(user.name);
    await out.getByLabel("Password").fill("correct horse battery");
    await out.getByRole("button", { name: "Make account" }).click();
    await out.getByText("Somebody has this user name already.").waitFor();
    await lookAt(out, "sign up, refused");
    it.expectProblems(/status of 409/);

    const page = await it.openAs(user, `#empty-${colorScheme}`, { colorScheme });
    await page.locator(".beginning-text").waitFor();
    await lookAt(page, "an empty channel");
    await page.goto(`${it.url}/#${few}`);
    await page.locator(".row.message").nth(2).waitFor();
    await lookAt(page, "3 messages");
    await page.goto(`${it.url}/#${many}`);
    await heading(page, many).waitFor();
    await page.locator(".row.message").nth(5).waitFor();
    await page.locator(".row.message").last().hover();
    await lookAt(page, "50 messages, one under the pointer");
    await page.evaluate(() => { document.querySelector(".timeline-scroll").scrollTop = 600; });
    await page.locator(".timeline-day button").click();
    await lookAt(page, "further up, with the form that goes elsewhere");
    await page.locator(".timeline-day button").click();

    for (const [name, open] of [
      ["Make a channel", () => page.getByRole("button", { name: "Make a channel" }).first().click()],
      ["All channels", () => page.getByRole("button", { name: "Browse all channels" }).click()],
      [`#${many}`, () => page.getByRole("button", { name: "About this channel" }).click()],
      ["Here now", () => page.locator(".people-button").click()],
      [user.name, () => page.locator(".you").click()],
      ["Go to channel", () => page.keyboard.press("Control+k")],
      ["Keys", async () => {
        await page.getByRole("button", { name: "About this channel" }).focus();
        await page.keyboard.press("?");
      }],
    ]) {
      await open();
      await page.getByRole("dialog", { name, exact: true }).waitFor();
      await page.locator("dialog[open] .settings summary").click({ timeout: 1 }).catch(() => undefined);
      await lookAt(page, `dialog ${name}`);
      await page.keyboard.press("Escape");
      await page.locator("dialog").waitFor({ state: "detached" });
    }
    const phone = await it.openAs(user, `#${many}`, { ...PHONE, colorScheme });
    await phone.locator(".row.message").nth(3).waitFor();
    await lookAt(phone, "phone");
    await phone.getByRole("button", { name: "Channels", exact: true }).click();
    await phone.locator(".sidebar").getByRole("link", { name: few }).waitFor();
    await lookAt(phone, "phone, the sheet");

    await it.server.down();
    await page.locator(".banner", { hasText: "Reconnecting" }).waitFor();
    await lookAt(page, "reconnecting");
    await page.context().setOffline(true);
    await page.locator(".banner", { hasText: "Offline" }).waitFor();
    await say(page, "said without a connection");
    await page.locator(".row.pending").waitFor();
    await lookAt(page, "offline");
    await page.context().setOffline(false);
    await it.server.up();
    await page.locator(".banner").waitFor({ state: "hidden" });
    await page.locator(".row.pending").waitFor({ state: "detached" });
    it.expectProblems(/WebSocket connection|Failed to load resource/);
  });
}

test("without a pointer: sign in, write, switch, every dialog; the focus is always somewhere, and seen", async () => {
  const [una, vera] = [await makeUser(it.url, "una"), await makeUser(it.url, "vera")];
  for (const name of ["first", "second"]) await una.createChannel(name);
  await vera.join("first");
  const page = await it.open();
  const focus = () => page.evaluate(() => {
    const at = document.activeElement;
    const ring = (element) => {
      const style = getComputedStyle(element);
      return (style.outlineStyle !== "none" && Number.parseFloat(style.outlineWidth) >= 2) || style.boxShadow !== "none";
    };
    // What is written into shows its ring on the box around it.
    const box = at.closest(".composer, .switcher-box");
    return { tag: at.tagName, name: at.ariaLabel ?? at.textContent.slice(0, 30), isSeen: ring(at) || (box !== null && (ring(box) || at.matches(".switcher-input"))), isTitle: at.matches("h1") };
  });
  const seen = async (where) => {
    const { tag, name, isSeen, isTitle } = await focus();
    assert.ok(tag !== "BODY" && tag !== "HTML", `${where}: the focus is lost`);
    assert.ok(isSeen || isTitle, `${where}: the focus is not seen on ${tag} ${name}`);
  };
  const press = async (keys, where) => {
    for (const key of keys) {
      await page.keyboard.press(key);
      await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
      await seen(`${where}, after ${key}`);
    }
  };
  /** Tab until it is there. */
  const reach = async (name) => {
    for (let i = 0, outside = 0; i < 40; i++) {
      await page.keyboard.press("Tab");
      // Once around, the keyboard is with the browser's own buttons.
      if ((await focus()).tag === "BODY" && outside++ === 0) continue;
      await seen(`on the way to ${name}`);
      if ((await focus()).name.includes(name)) return;
    }
    assert.fail(`${name} cannot be reached`);
  };
  await heading(page, "Sign in").waitFor();
  await seen("signed out");
  await page.keyboard.type("una");
  await press(["Tab"], "sign in");
  await page.keyboard.type(una.password);
  await page.keyboard.press("Enter");
  await page.locator(".you").getByText("live").waitFor();
  await seen("signed in");
  await press(["Control+k"], "switcher");
  await page.keyboard.type("first");
  await page.getByRole("option", { name: /^first/ }).waitFor();
  await page.keyboard.press("Enter");
  await heading(page, "first").waitFor();
  await composer(page).and(page.locator(":focus")).waitFor();
  await page.keyboard.type("by keys alone");
  await page.keyboard.press("Enter");
  await page.getByRole("log").getByText("by keys alone").waitFor();
  await seen("sent");
  await vera.post("first", "seen");
  await page.getByRole("log").getByText("seen", { exact: true }).waitFor();
  await press(["ArrowUp", "ArrowUp", "ArrowDown"], "in the messages");
  await page.keyboard.type("x");
  assert.equal(await composer(page).inputValue(), "x");
  await page.keyboard.press("Backspace");

  for (const [name, dialog] of [["Make a channel", "Make a channel"], ["Browse all", "All channels"], ["una", "una"], ["About this", "#first"], ["here", "Here now"]]) {
    await reach(name);
    await page.keyboard.press("Enter");
    await page.getByRole("dialog", { name: dialog, exact: true }).waitFor();
    let inside = 0;
    for (let i = 0; i < 5; i++) {
      await page.keyboard.press("Tab");
      // Past the last of its buttons are those of the browser.
      if ((await focus()).tag === "BODY") continue;
      inside++;
      await seen(dialog);
      assert.ok(await page.evaluate(() => document.querySelector("dialog[open]").contains(document.activeElement)), `${dialog} keeps the focus`);
    }
    assert.ok(inside >= 1, `${dialog} can be walked through`);
    await page.keyboard.press("Escape");
    await page.locator("dialog").waitFor({ state: "detached" });
    assert.ok((await focus()).name.includes(name), `${dialog} gives the focus back`);
  }
  await press(["?"], "help");
  await page.keyboard.press("Escape");
  await page.locator("dialog").waitFor({ state: "detached" });
  await press(["Alt+ArrowDown"], "the next channel");
  await heading(page, "second").waitFor();
  // All around once: nothing holds the focus.
  const names = new Set();
  for (let i = 0; i < 30; i++) {
    await page.keyboard.press("Tab");
    if ((await focus()).tag !== "BODY") names.add((await focus()).name);
  }
  assert.ok(names.size >= 8, [...names].join());
});

test("nothing moves for those who asked for that, and forced colours keep what is said by colour", async () => {
  const kit = await makeUser(it.url, "kit");
  for (const name of ["calm", "other"]) await kit.createChannel(name);
  const page = await it.openAs(kit, "#calm", { ...PHONE, reducedMotion: "reduce" });
  await heading(page, "calm").waitFor();
  await page.getByRole("button", { name: "Channels", exact: true }).click();
  const moving = await page.evaluate(() => {
    const ms = (list) => list.split(",").some((part) => Number.parseFloat(part) > 0);
    return [...document.querySelectorAll("*")].filter((it) => {
      const style = getComputedStyle(it);
      return (ms(style.transitionDuration) && style.transitionProperty !== "none") || (style.animationName !== "none" && ms(style.animationDuration) && style.animationName !== "late");
    }).map((it) => it.className);
  });
  assert.deepEqual(moving, []);

  const forced = await it.openAs(kit, "#calm", { forcedColors: "active" });
  await heading(forced, "calm").waitFor();
  for (const name of ["calm", "other"]) await forced.getByRole("link", { name }).waitFor();
  const [current, other] = await forced.evaluate(() => [...document.querySelectorAll(".channel")].map((it) => [it.hasAttribute("aria-current"), getComputedStyle(it).outlineStyle]).sort());
  assert.deepEqual([current, other].sort(), [[false, "none"], [true, "solid"]]);
  const edges = await forced.evaluate(() => [".composer", ".find"].map((name) => getComputedStyle(document.querySelector(name)).borderTopStyle));
  assert.deepEqual(edges, ["solid", "solid"]);
  await forced.keyboard.press("Control+k");
  await forced.getByRole("option").first().waitFor();
  assert.equal(await forced.evaluate(() => getComputedStyle(document.querySelector("[role=option][aria-selected=true]")).outlineStyle), "solid");
});

test("at 200 % and at 320 px nothing has to be scrolled sideways, and fingers find what they want", async () => {
  const zed = await makeUser(it.url, "zed");
  await zed.createChannel("narrow", { topic: "a topic that is much longer than any phone is wide ".repeat(3) });
  await it.server.importLines(lines("narrow", 30));
  await zed.post("narrow", `${"unbroken".repeat(60)} https://example.org/${"long".repeat(80)}`);
  // A window of 1280 px at 200 % has 640 of them.
  for (const viewport of [{ width: 640, height: 400 }, { width: 320, height: 568 }]) {
    const page = await it.openAs(zed, "#narrow", { viewport });
    await page.locator(".row.message").last().waitFor();
    const wide = async (where) => {
      const over = await page.evaluate(() => [...document.querySelectorAll("body, main, header, .foot, .timeline-scroll, .sidebar, dialog[open], dialog[open] .dialog-body")].filter((it) => it.scrollWidth > it.clientWidth + 1 && !/hidden/.test(getComputedStyle(it).overflowX)).map((it) => `${it.className}: ${it.scrollWidth} > ${it.clientWidth}`));
      assert.deepEqual(over, [], `${viewport.width} px, ${where}`);
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), where);
    };
    await wide("messages");
    for (const button of ["About this channel"]) {
      await page.getByRole("button", { name: button }).click();
      await wide(button);
      await page.getByRole("button", { name: "Close" }).click();
    }
    await page.keyboard.press("Control+k");
    await wide("switcher");
    await page.keyboard.press("Escape");
  }

  const small = (least, selector) => [least, selector];
  for (const [options, [least, selector]] of [
    [{}, small(24, "button, a.channel, select, input:not([type=radio]), textarea")],
    [PHONE, small(44, ".channel-head button, .send, .sidebar :is(.channel, .find, .you, .browse, .icon-button), .entrance :is(input, button.primary)")],
  ]) {
    const page = await it.open("", options);
    const measure = async (where) => {
      const tiny = await page.evaluate(({ least, selector }) => [...document.querySelectorAll(selector)].map((it) => [it.ariaLabel ?? it.textContent, it.getBoundingClientRect()]).filter(([, { width, height }]) => width > 0 && Math.min(width, height) < least - 0.5).map(([name, { width, height }]) => `${name}: ${width} × ${height}`), { least, selector });
      assert.deepEqual(tiny, [], where);
    };
    await heading(page, "Sign in").waitFor();
    await measure("signed out");
    await page.getByLabel("User name").fill(zed.name);
    await page.getByLabel("Password").fill(zed.password);
    await page.getByRole("button", { name: "Sign in", exact: true }).click();
    await page.goto(`${it.url}/#narrow`);
    await page.locator(".row.message").last().waitFor();
    await measure("messages");
    if (options === PHONE) await page.getByRole("button", { name: "Channels", exact: true }).click();
    await measure("channels");
  }
});

test("text has the contrast that is promised, in the colours that are really drawn", async () => {
  const hue = await makeUser(it.url, "hue");
  await hue.createChannel("colours", { topic: "said faintly" });
  await it.server.importLines(lines("colours", 12));
  for (const colorScheme of ["light", "dark"]) {
    const page = await it.openAs(hue, "#colours", { colorScheme });
    await page.locator(".row.message").last().waitFor();
    const drawn = await page.evaluate(() => {
      const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
      // A canvas gives the colour as it is drawn, in whatever form it was written.
      const rgba = (color, under) => {
        canvas.clearRect(0, 0, 1, 1);
        for (const layer of [...under, color]) {
          canvas.fillStyle = layer;
          canvas.fillRect(0, 0, 1, 1);
        }
        return [...canvas.getImageData(0, 0, 1, 1).data];
      };
      const luminance = ([r, g, b]) => {
        const [R, G, B] = [r, g, b].map((v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
        return 0.2126 * R + 0.7152 * G + 0.0722 * B;
      };
      const contrast = (element) => {
        const grounds = [];
        for (let at = element; at !== null; at = at.parentElement) grounds.unshift(getComputedStyle(at).backgroundColor);
        const [one, other] = [luminance(rgba(getComputedStyle(element).color, grounds)), luminance(rgba("transparent", grounds))];
        return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
      };
      const least = (selector) => Math.min(...[...document.querySelectorAll(selector)].map(contrast));
      return {
        text: least(".body .text, .channel-name, .beginning-text h2, .person"),
        meta: least(".row a.time, .topic, .sidebar h2, .sidebar .meta, .channel, .browse, .day-name"),
        names: least(".name, .avatar, .you-name"),
        links: least(".body a, .channel .count, code"),
      };
    });
    assert.ok(drawn.text >= 7, `${colorScheme}: text ${drawn.text}`);
    for (const [what, ratio] of Object.entries(drawn)) assert.ok(ratio >= 4.5, `${colorScheme}: ${what} ${ratio}`);
  }
});

test("a first visit is small, asks nobody else, does not jump, and is soon ready", async (t) => {
  const user = await makeUser(it.url, "newcomer");
  const other = await makeUser(it.url, "talker");
  await user.createChannel("welcome");
  await other.join("welcome");
  await it.server.importLines(lines("welcome", 60));
  const page = await (await it.context()).newPage();
  const devtools = await page.context().newCDPSession(page);
  await devtools.send("Network.enable");
  const [asked, bytes] = [[], { loaded: 0 }];
  devtools.on("Network.requestWillBeSent", ({ request }) => asked.push(request.url));
  devtools.on("Network.loadingFinished", ({ encodedDataLength }) => (bytes.loaded += encodedDataLength));
  await page.addInitScript(() => {
    window.shifts = [];
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifts.push([entry.value, entry.sources.map(({ node }) => node?.className ?? node?.nodeName).join()]);
    }).observe({ type: "layout-shift", buffered: true });
  });
  const noShift = async (where) => {
    const shifts = await page.evaluate(() => window.shifts);
    const sum = shifts.reduce((all, [value]) => all + value, 0);
    assert.ok(sum < SHIFT_MAX, `${where}: it shifted by ${sum}: ${JSON.stringify(shifts)}`);
  };
  await page.goto(`${it.url}/#welcome`);
  await heading(page, "Sign in").waitFor();
  const first = asked.filter((url) => !url.startsWith("data:"));
  assert.ok(first.every((url) => url.startsWith(it.url)), first.join());
  assert.ok(first.length <= 6, `${first.length} requests: ${first.join()}`);
  // The server that stands in while the page is worked on does not compress.
  if (process.env.PAGE !== "dist") assert.ok(bytes.loaded <= TRANSFER_BYTES_MAX, `${bytes.loaded} bytes`);
  assert.ok(bytes.loaded > 10_000, `${bytes.loaded} bytes`);
  await noShift("signed out");
  const head = await page.evaluate(() => ({
    lang: document.documentElement.lang, title: document.title, viewport: document.querySelector("meta[name=viewport]")?.content, description: document.querySelector("meta[name=description]")?.content,
    charset: document.characterSet, mode: document.compatMode,
  }));
  assert.equal(head.lang, "en");
  assert.equal(head.title, "hubbub");
  assert.match(head.viewport, /width=device-width/);
  assert.doesNotMatch(head.viewport, /user-scalable=no|maximum-scale/);
  assert.ok(head.description?.length > 20, "a description");
  assert.deepEqual([head.charset, head.mode], ["UTF-8", "CSS1Compat"]);
  await page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint").length > 0);
  const paint = await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime);

  await page.getByLabel("User name").fill(user.name);
  await page.getByLabel("Password").fill(user.password);
  const began = Date.now();
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await page.locator(".row.message").first().waitFor();
  const message = Date.now() - began;

  // Reading began at the first unread message; Escape goes to the newest, and the next visit begins there.
  await page.keyboard.press("Escape");
  await until("all is read", async () => (await user.ask("GET", "/v1/me/channels")).channels.every(({ unread_count: unread }) => unread === 0));

  // Signed in already: from the address to a text that takes letters.
  await page.reload();
  await composer(page).and(page.locator(":focus")).waitFor();
  const ready = await page.evaluate(() => performance.now());
  await page.locator(".row.message").last().waitFor();
  for (let i = 0; i < 5; i++) await other.post("welcome", `and number ${i}`);
  await page.getByRole("log").getByText("and number 4").waitFor();
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
  await noShift("messages came");
  t.diagnostic(`${first.length} requests, ${bytes.loaded} bytes; first paint ${paint.toFixed(0)} ms, first message ${message} ms after signing in, ready to type ${ready.toFixed(0)} ms after a reload`);
  for (const ms of [paint, message, ready]) assert.ok(ms < START_MS_MAX, `${ms} ms`);
});
