// Pictures of the page for people who have not seen it: a real server, made-up people, one fixed moment.
//
//   HUBBUB=…/target/debug/hubbub CHROMIUM=/usr/bin/chromium npm run shots     writes docs/page/*.png
//
// With PAGE=dist the page is that of web/dist now. Debian's fonts-inter and fonts-noto-color-emoji stand for
// what people have; without them the pictures come out in another type.
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { small } from "./palette.mjs";
import { makeUser, startServer } from "./test/browser/harness.mjs";

const OUT = fileURLToPath(new URL("../docs/page", import.meta.url));
const WIDE = { width: 1280, height: 800 };
const PHONE = { width: 390, height: 844 };
/** When all of it happens, so that no picture changes by the day it is made on. */
const NOW = new Date("2026-03-12T12:42:00+01:00");
/** The address that the pictures show; the browser is told where it really is. */
const HOST = "chat.example.org";

const PEOPLE = ["ada", "noor", "tomasz", "mei", "sofia", "kofi"];
const CHANNELS = [
  ["lobby", "Where everybody arrives"],
  ["night-shift", "Who is awake, and what is on fire"],
  ["harbour-app", "The harbour app: builds, bugs, releases"],
  ["kitchen", "Bread, soup, arguments about salt"],
  ["reading", "One book a month"],
];

/** Who, minutes before NOW, what. */
const TALK = [
  ["tomasz", 1_520, "The tide tables for April are in. Half of them still say 2025 in the header, I fixed those by hand."],
  ["mei", 1_512, "You are a hero. Next year I will write a script."],
  ["tomasz", 1_511, "You said that last year :smile:"],
  ["ada", 148, "Morning! The build on the old tablets is slow again. First draw takes 2.4 s, it was 0.9 s on Monday."],
  ["ada", 147, "Nothing in the log that I can see."],
  ["noor", 141, "Could be the map. We load all berths now, not only those in view:"],
  ["noor", 141, "```js\nconst berths = await harbour.berths({ within: map.bounds });\nmap.draw(berths);\n```"],
  ["noor", 140, "`within` is new since Tuesday, and I think the server does not know it yet."],
  ["kofi", 96, "It does not. I deploy at noon, then it should be quick again."],
  ["mei", 58, "While you are there: https://tides.example.org/stations/rotterdam has moved, the old address answers with a login page."],
  ["kofi", 21, "Deployed. Ada, is it better?"],
  ["ada", 12, "0.7 s. Faster than ever. Thank you both!"],
  ["ada", 12, "🎉"],
  ["sofia", 6, "Then I tell the pilots that they can update. Shall we say tomorrow, 7:00, before the first ships?"],
  ["noor", 3, "Works for me. I am up anyway."],
];

async function fonts() {
  const folder = await mkdtemp(join(tmpdir(), "hubbub-fonts-"));
  const file = join(folder, "fonts.conf");
  const first = (family, own) => `<match target="pattern"><test name="family"><string>${family}</string></test><edit name="family" mode="prepend_first" binding="strong"><string>${own}</string></edit></match>`;
  // The system adds a sans to each name that it does not know, so the monospace comes last, and wins.
  const own = ["system-ui", "sans-serif", "sans"].map((family) => first(family, "Inter")).join("") + first("ui-monospace", "DejaVu Sans Mono");
  await writeFile(file, `<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig><include>/etc/fonts/fonts.conf</include>${own}</fontconfig>`);
  return { folder, file };
}

const { folder, file } = await fonts();
const server = await startServer();
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox", "--hide-scrollbars", `--host-resolver-rules=MAP ${HOST} ${new URL(server.url).host}`, `--unsafely-treat-insecure-origin-as-secure=http://${HOST}`], env: { ...process.env, FONTCONFIG_FILE: file, TZ: "Europe/Amsterdam" } });
try {
  await rm(OUT, { recursive: true, force: true });
  await mkdir(OUT, { recursive: true });
  await takeAll();
} finally {
  await browser.close();
  await server.stop();
  await rm(folder, { recursive: true, force: true });
}

async function takeAll() {
  const users = new Map();
  for (const name of PEOPLE) users.set(name, await makeUser(server.url, name));
  // In this order, so that everybody has the same colour each time.
  for (const user of users.values()) await user.join("lobby");
  const subject = (name) => JSON.parse(Buffer.from(users.get(name).token.split(".")[1], "base64url")).sub;
  const at = (minutes) => NOW.getTime() - minutes * 60_000;
  const say = (channel, name, minutes, body) => ({ channel, author: name, user: subject(name), time: at(minutes), body });
  const members = PEOPLE.map((name, i) => ({ name, user: subject(name), role: i === 1 ? "owner" : "member" }));
  const answer = await server.importLines([
    ...CHANNELS.map(([channel, topic]) => ({ channel, created: new Date(at(90_000)).toISOString(), settings: { topic }, members })),
    ...TALK.map(([name, minutes, body]) => say("harbour-app", name, minutes, body)),
    say("lobby", "sofia", 300, "Welcome, everybody."),
    say("night-shift", "kofi", 500, "All quiet."),
    say("kitchen", "tomasz", 80, "There is soup. It is green, but it is good."),
    say("reading", "mei", 2_000, "Chapter four is the one with the storm."),
  ]);
  if (answer.result.stats.records.invalid > 0) throw new Error(JSON.stringify(answer));
  for (const [channel] of CHANNELS) for (const name of PEOPLE) await markRead(users.get(name), channel);
  await server.importLines([say("kitchen", "mei", 9, "It is gone. Who ate all of it?"), say("kitchen", "kofi", 8, "No comment."), say("night-shift", "tomasz", 5, "Radar 2 is back.")]);

  const others = [];
  for (const name of ["noor", "kofi", "mei", "tomasz"]) others.push(await open(name, { viewport: WIDE }, "#harbour-app"));
  const ada = await open("ada", { viewport: WIDE, colorScheme: "light" }, "#harbour-app");
  await ada.locator(".people-part li").nth(4).waitFor();
  await shot(ada, "conversation-light");
  await ada.emulateMedia({ colorScheme: "dark" });
  await others[1].getByRole("textbox", { name: /^Message/ }).pressSequentially("On it");
  await ada.locator(".typing", { hasText: "kofi" }).waitFor();
  await shot(ada, "conversation-dark");
  await ada.emulateMedia({ colorScheme: "light" });
  await ada.keyboard.press("Control+k");
  await ada.keyboard.type("n");
  await ada.getByRole("option", { name: /night-shift/ }).waitFor();
  await shot(ada, "switcher");
  await ada.keyboard.press("Escape");

  const phone = await open("sofia", { viewport: PHONE, colorScheme: "light", hasTouch: true, isMobile: true, deviceScaleFactor: 2 }, "#harbour-app");
  await shot(phone, "phone");
  await phone.emulateMedia({ colorScheme: "dark" });
  await phone.getByRole("button", { name: "Channels", exact: true }).click();
  await phone.waitForTimeout(400);
  await shot(phone, "phone-channels");

  const stranger = await open(undefined, { viewport: WIDE, colorScheme: "light" });
  await stranger.getByLabel("User name").fill("ines");
  await shot(stranger, "sign-in");

  const ines = await users.get("sofia").createChannel("pilots", { topic: "Who takes which ship" });
  if (ines === undefined) throw new Error("no channel");
  const empty = await open("sofia", { viewport: WIDE, colorScheme: "dark" }, "#pilots");
  await empty.locator(".beginning-text").waitFor();
  await shot(empty, "empty");

  await server.down();
  await ada.locator(".banner").getByText(/Reconnecting/).waitFor();
  const box = ada.getByRole("textbox", { name: /^Message/ });
  await box.fill("7:00 it is. I bring the coffee.");
  await box.press("Enter");
  await ada.waitForTimeout(900);
  await shot(ada, "reconnecting");
  await server.up();
}

async function markRead(user, channel) {
  const { channels } = await user.ask("GET", "/v1/me/channels");
  const { head } = channels.find(({ name }) => name === channel);
  await user.ask("PUT", `/v1/channels/${channel}/read`, head);
}

async function open(name, options, hash = "") {
  const context = await browser.newContext({ timezoneId: "Europe/Amsterdam", locale: "en-GB", reducedMotion: "reduce", ...options });
  context.setDefaultTimeout(20_000);
  const page = await context.newPage();
  await page.clock.setSystemTime(NOW);
  await page.goto(`http://${HOST}/${hash}`);
  if (name === undefined) return page;
  await page.getByLabel("User name").fill(name);
  await page.getByLabel("Password").fill("correct horse battery");
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await page.locator(".you").getByText("live").waitFor({ state: "attached" });
  await page.locator(".row").first().waitFor();
  return page;
}

async function shot(page, name) {
  await page.mouse.move(0, 0);
  await page.evaluate(() => new Promise((resolve) => setTimeout(resolve, 150)));
  const picture = small(await page.screenshot({ animations: "disabled", caret: "hide" }));
  await writeFile(join(OUT, `${name}.png`), picture);
  console.log(`${name}: ${picture.length} bytes`);
}
