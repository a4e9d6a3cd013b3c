// The first minute: an account, the lobby, and two people who talk.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fixture, makeUser, say } from "./harness.mjs";

const it = fixture();

test("who makes an account lands in the lobby, ready to type", async () => {
  const page = await it.open();
  await page.getByRole("button", { name: "Make an account" }).click();
  await page.getByLabel("User name").fill("Grace");
  await page.getByLabel("Password").fill("correct horse battery");
  await page.getByRole("button", { name: "Make account" }).click();

  await page.getByRole("heading", { name: "This is #lobby" }).waitFor();
  assert.match(await page.locator(".beginning-text").innerText(), new RegExp(`curl ${it.url}/v1/channels/lobby/messages`));
  assert.equal(await page.evaluate(() => document.activeElement?.tagName), "TEXTAREA", "the composer has the focus");
  await page.keyboard.type("first words");
  await page.keyboard.press("Enter");
  await page.getByRole("log").getByText("first words").waitFor();
  assert.equal(new URL(page.url()).hash, "#lobby");

  const kept = await page.evaluate(() => ({ keys: Object.keys(localStorage), session: sessionStorage.length, cookie: document.cookie }));
  assert.deepEqual(kept, { keys: ["hubbub.channel"], session: 0, cookie: "" }, "no token where a script could read it");

  await page.reload();
  await page.getByRole("log").getByText("first words").waitFor();
});

test("two people chat, and what one has not seen is counted", async () => {
  const [ada, bob] = [await makeUser(it.url, "ada"), await makeUser(it.url, "bob")];
  await ada.createChannel("kitchen");
  await bob.join("kitchen");
  await bob.createChannel("attic");
  const adas = await it.openAs(ada, "#kitchen");
  const bobs = await it.openAs(bob, "#attic");
  await bobs.getByRole("link", { name: "kitchen" }).waitFor();

  await say(adas, "is there coffee?");
  await bobs.getByRole("link", { name: "kitchen, 1 unread" }).click();
  await bobs.getByRole("log").getByText("is there coffee?").waitFor();
  await bobs.getByRole("link", { name: "kitchen", exact: true }).waitFor();

  await say(bobs, "there is");
  await adas.getByRole("log").getByText("there is", { exact: true }).waitFor();
  const order = await adas.getByRole("log").innerText();
  assert.ok(order.indexOf("is there coffee?") < order.indexOf("there is\n") || order.trimEnd().endsWith("there is"), order);
});
