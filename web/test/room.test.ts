// One channel as the page has it, on a channel that is made up: what is pending, unread and loaded.
import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { HubbubError, type Channel, type ChannelInfo, type Entry, type Hubbub, type Message } from "@hubbub/client";
import { Names } from "../src/names";
import { Room } from "../src/room";
import { Rooms } from "../src/rooms";

const ME = 1;
const OTHER = 2;

function message(sequence: number, userId = OTHER, more: Partial<Message> = {}): Message {
  return { kind: "message", sequence, at: sequence * 1000, userId, body: `message ${sequence}`, ...more };
}

function about(name: string, more: Partial<ChannelInfo> = {}): ChannelInfo {
  return { id: 7, name, topic: "", visibility: "public", posting: "everyone", archived: false, memberCount: 2, role: "member", createdAt: 0, ...more };
}

/** The server's side of a channel: `log` is what its history answers. */
class FakeChannel {
  readonly log: Entry[] = [];
  readonly published: { body: string; clientMessageId: string | undefined }[] = [];
  readonly marked: number[] = [];
  readonly presence = { userCount: 0, connectionCount: 0, userIds: undefined };
  readonly state = "subscribed";
  readonly id = 7;
  pageMax = 200;
  reads = 0;
  publishing: (published: { body: string; clientMessageId: string | undefined }) => Promise<{ sequence: number; at?: number }> = () => new Promise(() => undefined);
  readonly #listeners = new Map<string, ((...args: never[]) => void)[]>();

  constructor(readonly name: string) {}

  get head(): number {
    return this.log.length;
  }
  on(event: string, listener: (...args: never[]) => void): () => void {
    this.#listeners.set(event, [...(this.#listeners.get(event) ?? []), listener]);
    return () => undefined;
  }
  tell(event: string, ...args: unknown[]): void {
    for (const listener of this.#listeners.get(event) ?? []) (listener as (...args: unknown[]) => void)(...args);
  }
  deliver(...entries: Entry[]): void {
    this.log.push(...entries);
    this.tell("entries", entries, "live");
  }
  async subscribe(): Promise<{ epoch: number; head: number }> {
    return { epoch: 5, head: this.head };
  }
  async unsubscribe(): Promise<void> {}
  async history({ before, after, limit = 50 }: { before?: number; after?: number; limit?: number }) {
    this.reads++;
    const most = Math.min(limit, this.pageMax);
    const entries = after !== undefined ? this.log.slice(after, after + most) : this.log.slice(0, before === undefined ? undefined : Math.max(0, before - 1)).slice(-most);
    return { entries, epoch: 5, head: this.head };
  }
  publish(body: string, { clientMessageId }: { clientMessageId?: string }) {
    this.published.push({ body, clientMessageId });
    return this.publishing({ body, clientMessageId });
  }
  async markRead(sequence: number): Promise<void> {
    this.marked.push(sequence);
  }
}

function room(info: Partial<ChannelInfo> = {}): { room: Room; channel: FakeChannel } {
  const channel = new FakeChannel("lobby");
  const names = new Names({ users: async () => new Map() } as unknown as Hubbub, () => undefined);
  const made = new Room(channel as unknown as Channel, ME, names, () => undefined);
  made.describe(about("lobby", info));
  return { room: made, channel };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

test("a message is pending, then failed, then goes again under the same number, then is there once", async () => {
  const { room: lobby, channel } = room();
  await lobby.open();
  channel.publishing = () => Promise.reject(new HubbubError("timeout", "no answer"));
  lobby.send("hello");
  assert.deepEqual([...lobby.log.outgoing].map(({ state }) => state), ["pending"]);
  await settled();
  const [failed] = [...lobby.log.outgoing];
  assert.equal(failed?.state, "failed");
  assert.equal(failed?.error, "No answer came in time.");
  assert.equal(lobby.unsent, 1);

  channel.publishing = async ({ clientMessageId }) => {
    channel.deliver(message(1, ME, { body: "hello", ...(clientMessageId && { clientMessageId }) }));
    return { sequence: 1, at: 1000 };
  };
  lobby.retry(failed?.key ?? "");
  await settled();
  assert.equal(new Set(channel.published.map(({ clientMessageId }) => clientMessageId)).size, 1, "one number for both attempts");
  assert.deepEqual([...lobby.log.outgoing], []);
  assert.equal(lobby.log.head, 1);
  assert.equal(lobby.unsent, 0);
});

test("numbers of messages are decimal, different, and fit 63 bits", async () => {
  const { room: lobby, channel } = room();
  for (let i = 0; i < 100; i++) lobby.send("x");
  const keys = channel.published.map(({ clientMessageId }) => BigInt(clientMessageId ?? 0));
  assert.equal(new Set(keys).size, 100);
  assert.ok(keys.every((key) => key > 0n && key < 1n << 63n));
});

test("what others wrote is unread until it was seen, and what I wrote never is", () => {
  const { room: lobby, channel } = room();
  channel.deliver(message(1), message(2, ME), message(3));
  assert.equal(lobby.unread, 2);
  lobby.markRead(3);
  assert.equal(lobby.unread, 0);
  assert.deepEqual(channel.marked, [3]);
  lobby.markRead(2);
  assert.deepEqual(channel.marked, [3], "a marker never goes back");
});

test("a marker from another tab leaves only what came after it", async () => {
  const { room: lobby, channel } = room();
  await lobby.subscribe();
  await lobby.open();
  channel.deliver(message(1), message(2), message(3, ME), message(4));
  channel.tell("readMarker", { position: { epoch: 5, sequence: 2 } });
  assert.equal(lobby.unread, 1);
  assert.deepEqual(channel.marked, [], "it is the server's own word");
  channel.tell("readMarker", { position: { epoch: 4, sequence: 4 } });
  assert.equal(lobby.unread, 1, "a marker of another epoch says nothing");
});

test("who is no member marks nothing as read", () => {
  const { room: lobby, channel } = room({ role: undefined });
  channel.deliver(message(1));
  lobby.markRead(1);
  assert.deepEqual(channel.marked, []);
});

test("the list of memberships says how much is unread before anything is loaded", () => {
  const { room: lobby } = room({ head: { epoch: 5, sequence: 90 }, readSequence: 4, unreadCount: 86 });
  assert.equal(lobby.unread, 86);
  assert.equal(lobby.read, 4);
});

test("a small number of unread is shown once comings, goings and my own words are taken out", async () => {
  const { room: lobby, channel } = room({ head: { epoch: 5, sequence: 4 }, readSequence: 1, unreadCount: 3 });
  channel.log.push(message(1), { kind: "membership", sequence: 2, at: 0, userId: 3, memberId: 3, role: "member" }, message(3, ME), message(4));
  assert.equal(lobby.unread, 0, "nothing is said that would be taken back");
  const counting = lobby.recount();
  channel.deliver(message(5));
  await counting;
  assert.equal(lobby.unread, 2, "the one before, and the one that came meanwhile");
  lobby.describe(about("lobby", { head: { epoch: 5, sequence: 5 }, readSequence: 1, unreadCount: 4 }));
  await lobby.recount();
  assert.equal(lobby.unread, 2, "the list says nothing new");
});

test("what the list counted is not counted again when a replay brings it", async () => {
  const { room: lobby, channel } = room({ head: { epoch: 5, sequence: 3 }, readSequence: 1, unreadCount: 2 });
  channel.log.push(message(1), message(2), message(3));
  await lobby.recount();
  channel.deliver(message(1), message(2), message(3), message(4));
  assert.equal(lobby.unread, 3);
  channel.tell("gap", { from: 3, to: 6 });
  assert.equal(lobby.unread, 5, "two more that will not be delivered");
  lobby.describe(about("lobby", { head: { epoch: 5, sequence: 4 }, readSequence: 1, unreadCount: 3 }));
  assert.equal(lobby.unread, 5, "an answer that was overtaken");
});

test("a page is as short as the server likes, and a range is loaded to its end", async () => {
  const { room: lobby, channel } = room();
  channel.log.push(...Array.from({ length: 500 }, (_, i) => message(i + 1)));
  channel.pageMax = 30;
  await lobby.open();
  assert.equal(lobby.log.oldest, 471);
  await lobby.loadRange(300, 400);
  for (let sequence = 300; sequence <= 400; sequence++) assert.ok(lobby.log.entry(sequence), `${sequence} is missing`);
  assert.equal(lobby.log.entry(401), undefined);
  await lobby.loadBefore(300);
  assert.ok(lobby.log.entry(270));
});

test("a day is found in few reads", async () => {
  const { room: lobby, channel } = room();
  channel.log.push(...Array.from({ length: 50_000 }, (_, i) => message(i + 1)));
  await lobby.open();
  channel.reads = 0;
  assert.equal(await lobby.sequenceAt(new Date(12_345_000)), 12_345);
  assert.equal(await lobby.sequenceAt(new Date(0)), 1);
  assert.equal(await lobby.sequenceAt(new Date(99_999_999_000)), 50_000);
  assert.ok(channel.reads <= 3 * 17, `${channel.reads} reads`);
});

test("a gap is a hole in what is shown, and new numbering begins from nothing", async () => {
  const { room: lobby, channel } = room();
  channel.log.push(message(1));
  await lobby.open();
  channel.tell("gap", { from: 2, to: 39 });
  assert.deepEqual(lobby.log.gaps(), [{ from: 2, to: 39 }]);
  channel.log.length = 0;
  channel.tell("reset", { head: { epoch: 6, sequence: 0 } });
  assert.deepEqual(lobby.log.ranges, []);
  assert.equal(lobby.unread, 0);
});

test("somebody is writing for six seconds, or until the message is there", (t) => {
  mock.timers.enable({ apis: ["setTimeout"] });
  t.after(() => mock.timers.reset());
  const { room: lobby, channel } = room();
  channel.tell("typing", { userIds: [ME, OTHER, 3] });
  assert.deepEqual(lobby.typing, [OTHER, 3], "not I");
  channel.deliver(message(1, OTHER));
  assert.deepEqual(lobby.typing, [3]);
  mock.timers.tick(6_000);
  assert.deepEqual(lobby.typing, []);
});

test("settings and memberships that come by are taken over, and imported ones are not", () => {
  const { room: lobby, channel } = room();
  const settings = { topic: "new", visibility: "public", posting: "members", archived: false } as const;
  channel.deliver({ kind: "settings", sequence: 1, at: 0, userId: OTHER, name: "hall", ...settings });
  assert.equal(lobby.channel, "hall");
  channel.deliver({ kind: "settings", sequence: 2, at: 0, userId: OTHER, name: "old", writtenAt: 3, ...settings });
  assert.equal(lobby.channel, "hall");
  channel.deliver({ kind: "membership", sequence: 3, at: 0, userId: OTHER, memberId: ME });
  assert.equal(lobby.isMember, false);
});

test("the list of channels follows memberships and names, and a room stays the same one", async () => {
  const channels = new Map<string, FakeChannel>();
  let mine = [about("beta", { id: 2 }), about("alpha", { id: 1 })];
  const hubbub = {
    channel: (name: string) => channels.get(name) ?? (channels.set(name, new FakeChannel(name)), channels.get(name)),
    memberships: async () => ({ channels: mine }),
  } as unknown as Hubbub;
  const rooms = new Rooms(hubbub, ME, new Names(hubbub, () => undefined), () => undefined);
  const opened = rooms.named("alpha");
  await rooms.load();
  assert.deepEqual(rooms.list.map((one) => one.channel), ["alpha", "beta"]);
  assert.equal(rooms.list[0], opened, "it was opened by its name before the list was there");

  mine = [about("gamma", { id: 1 })];
  await rooms.load();
  assert.deepEqual(rooms.list.map((one) => one.channel), ["gamma"]);
  assert.equal(rooms.list[0], opened, "a new name, the same channel");
  assert.equal(rooms.find("gamma"), opened);
});
