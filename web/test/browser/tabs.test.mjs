// One user in several places, and channels that change or end while somebody looks at them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { fixture, makeUser, say, until } from "./harness.mjs";

const it = fixture();
const heading = (page, name) => page.getByRole("heading", { level: 1, name, exact: true });
const link = (page, name) => page.getByRole("link", { name, exact: true });
const shown = (page, text) => page.getByRole("log").getByText(text, { exact: true }).waitFor();

test("what is read in one place is read in all of them", async () => {
  const [ana, rob] = [await makeUser(it.url, "ana"), await makeUser(it.url, "rob")];
  for (const name of ["news", "desk"]) await ana.createChannel(name);
  await rob.join("news");
  const first = await it.openAs(ana, "#desk");
  const tab = await first.context().newPage();
  await tab.goto(`${it.url}/#desk`);
  const elsewhere = await it.openAs(ana, "#desk");
  const everywhere = [first, tab, elsewhere];
  for (const page of everywhere) await link(page, "news").waitFor();
  for (const n of [1, 2, 3]) await rob.post("news", `story ${n}`);
  for (const page of everywhere) await link(page, "news, 3 unread").waitFor();
  await elsewhere.reload();
  await link(elsewhere, "news, 3 unread").waitFor();

  await elsewhere.bringToFront();
  await link(elsewhere, "news, 3 unread").click();
  await shown(elsewhere, "story 3");
  for (const page of everywhere) await link(page, "news").waitFor();
  const marker = await until("the server has the marker", async () => {
    const { channels } = await ana.ask("GET", "/v1/me/channels");
    const news = channels.find(({ name }) => name === "news");
    return news.unread_count === 0 && news;
  });
  assert.equal(marker.read_sequence, marker.head.sequence);
  await rob.post("news", "story 4");
  await shown(elsewhere, "story 4");
  for (const page of everywhere) await link(page, "news").waitFor();
});

test("a channel that is renamed, left to others, or deleted while it is looked at says so", async () => {
  const [own, bea] = [await makeUser(it.url, "own"), await makeUser(it.url, "bea")];
  await own.createChannel("before");
  await bea.join("before");
  const page = await it.openAs(bea, "#before");
  await heading(page, "before").waitFor();
  const box = page.getByRole("textbox", { name: /^Message #/ });
  await box.fill("half a thought");

  await own.ask("PATCH", "/v1/channels/before", { name: "after" });
  await heading(page, "after").waitFor();
  await page.getByText(/own set the channel to #after/).waitFor();
  await until("the address follows", () => page.evaluate(() => location.hash === "#after"));
  assert.equal(await box.inputValue(), "half a thought");
  await page.getByRole("textbox", { name: "Message #after" }).waitFor();

  const { members } = await own.ask("GET", "/v1/channels/after/members");
  const { user_id: id } = members.find(({ name }) => name === "bea");
  await own.ask("DELETE", `/v1/channels/after/members/${id}`);
  await page.getByText("own removed bea").waitFor();
  await page.getByText("You are looking at this channel from outside.").waitFor();
  await page.getByRole("button", { name: "Join", exact: true }).click();
  await page.getByText("You are looking at this channel from outside.").waitFor({ state: "detached" });
  await say(page, "back again");
  await shown(page, "back again");

  await box.fill("a thought to keep");
  await own.ask("DELETE", "/v1/channels/after");
  await page.getByText("#after cannot be shown").waitFor();
  await page.getByText("It was deleted.", { exact: true }).waitFor();
  await page.getByText("a thought to keep").waitFor();
  assert.equal(await link(page, "after").count(), 0);
});

test("who is removed from a private channel is told, whether they look at it or not", async () => {
  const [lia, tod] = [await makeUser(it.url, "lia"), await makeUser(it.url, "tod")];
  await tod.ask("GET", "/v1/me/channels");
  const ids = new Map();
  for (const name of ["vault", "cellar"]) {
    await lia.createChannel(name, { visibility: "private" });
    await tod.createChannel(`tods-${name}`);
    const { members } = await tod.ask("GET", `/v1/channels/tods-${name}/members`);
    ids.set(name, members[0].user_id);
    await lia.ask("PUT", `/v1/channels/${name}/members/${members[0].user_id}`);
  }
  const page = await it.openAs(tod, "#vault");
  await heading(page, "vault").waitFor();
  await link(page, "cellar, private").waitFor();
  await lia.ask("DELETE", `/v1/channels/cellar/members/${ids.get("cellar")}`);
  await page.getByText("#cellar is gone from your channels. You are no member any more.").waitFor();
  await link(page, "cellar, private").waitFor({ state: "detached" });
  await lia.ask("DELETE", `/v1/channels/vault/members/${ids.get("vault")}`);
  await page.getByText("#vault cannot be shown").waitFor();
  await page.getByText("You are no member any more.", { exact: true }).waitFor();
});
