// Access tokens run out while people talk, and accounts are taken away. One lives 4 seconds here.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fixture, makeUser, say, until } from "./harness.mjs";
import { commandsOf, noLuck } from "./watch.mjs";

process.env.HUBBUB__AUTH__ACCESS_TOKEN_LIFETIME = "4s";

const it = fixture();
const shown = (page, text) => page.getByRole("log").getByText(text, { exact: true }).waitFor();

test("tokens are renewed while people talk, and a renewal that finds no server signs nobody out", async () => {
  const [amy, bo] = [await makeUser(it.url, "amy"), await makeUser(it.url, "bo")];
  await amy.createChannel("evergreen");
  await bo.join("evergreen");
  let commands;
  let refusals = 0;
  const prepare = async (page) => {
    commands = commandsOf(page);
    const failed = (request) => request.url().endsWith("/v1/session/renew") && refusals++;
    page.on("requestfailed", failed);
    page.on("response", (response) => response.status() >= 500 && failed(response.request()));
    await noLuck(page, 0.2);
  };
  const page = await it.openAs(amy, "#evergreen", { prepare });
  const other = await it.openAs(bo, "#evergreen", { prepare: (page) => noLuck(page, 0.2) });
  const bothSay = async (text) => {
    await say(page, `${text}, says amy`);
    await shown(other, `${text}, says amy`);
    await say(other, `${text}, says bo`);
    await shown(page, `${text}, says bo`);
  };
  for (const renewals of [0, 1, 2]) {
    await until(`${renewals} renewals`, () => commands.of("authenticate").length >= renewals);
    await bothSay(`after ${renewals} renewals`);
  }
  assert.equal(commands.connections, 1, "on one connection");

  await it.server.down("SIGKILL");
  await say(page, "is anybody there?");
  await until("a renewal found nobody", () => refusals > 0);
  await it.server.up();
  for (const one of [page, other]) {
    await until("the page is connected again", () =>
      one.evaluate(() => {
        document.querySelector(".banner:not([hidden]) button:not([hidden])")?.click();
        return document.querySelector(".you").textContent.endsWith("live");
      }),
    );
  }
  await shown(other, "is anybody there?");
  await bothSay("again");
  assert.equal(await page.locator(".row.outgoing").count(), 0);
  it.expectProblems(/WebSocket connection|Failed to load resource|getToken|token/);
});

test("an account that is disabled leaves a sentence, and cannot come back", async () => {
  const kim = await makeUser(it.url, "kim");
  await kim.createChannel("exile");
  const page = await it.openAs(kim, "#exile");
  await page.getByRole("heading", { level: 1, name: "exile" }).waitFor();
  await it.server.admin("POST", "/v1/admin/accounts/kim/disable");
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await page.getByText("Your session is over. Sign in again.").waitFor();
  await page.getByLabel("User name").fill(kim.name);
  await page.getByLabel("Password").fill(kim.password);
  await page.getByRole("button", { name: "Sign in", exact: true }).click();
  await page.getByText("The user name or the password is wrong.").waitFor();
  await page.reload();
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  it.expectProblems(/Failed to load resource.*40[13].*\/v1\/session/);
});
