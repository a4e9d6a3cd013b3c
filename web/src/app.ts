// The page once somebody is signed in: which channel is looked at, and what stands around it.
import type { Hubbub, User } from "@hubbub/client";
import { banner } from "./banner";
import { browseChannels, createChannel } from "./channels";
import { Composer } from "./composer";
import { channelDetails } from "./details";
import { fill, h, icon, iconButton, ICONS, say } from "./dom";
import { beginning, noAccess, noChannel } from "./empty";
import { openKeys } from "./keys";
import { Names } from "./names";
import { peopleHere } from "./people";
import type { Left, Room, RoomChange } from "./room";
import { Rooms } from "./rooms";
import { route, routeTo } from "./route";
import type { Session } from "./session";
import { Sidebar } from "./sidebar";
import { openSwitcher } from "./switcher";
import { keepLastChannel, lastChannel } from "./theme";
import { Timeline } from "./timeline/timeline";
import { error as toastError } from "./toasts";
import { explain, plural } from "./words";
import { openYou } from "./you";

const FIRST_CHANNEL = "lobby";

export class App {
  readonly names: Names;
  readonly rooms: Rooms;
  room: Room | undefined;

  readonly #sidebar: Sidebar;
  readonly #composer: Composer;
  readonly #sign = h("span", { class: "sign", aria: { hidden: true } });
  readonly #title = h("h1", { class: "channel-name", tabindex: -1 });
  readonly #topic = h("p", { class: "topic", dir: "auto" });
  readonly #people = h("button", { class: "people-button", type: "button" });
  readonly #stage = h("div", { class: "stage" });
  readonly #notice = h("div", { class: "notice" });
  readonly #typing = h("p", { class: "typing", aria: { live: "polite" } });
  readonly #off: (() => void)[] = [];
  #timeline: Timeline | undefined;
  #isAtNewest = true;
  /** The name under which the channel is looked at: when it gets another one, the address follows. */
  #shownAs: string | undefined;
  #drawing = false;

  constructor(
    root: HTMLElement,
    readonly hubbub: Hubbub,
    readonly session: Session,
    readonly user: User,
    readonly leave: () => void,
  ) {
    this.names = new Names(hubbub, () => {
      this.#timeline?.changed();
      this.draw();
    });
    this.names.learn(user.id, user.name);
    this.rooms = new Rooms(hubbub, user.id, this.names, (room, change) => this.#told(room, change));
    this.#sidebar = new Sidebar(this, {
      create: () => this.#over(() => createChannel(this)),
      browse: () => this.#over(() => browseChannels(this)),
      switch: () => this.#over(() => openSwitcher(this)),
      you: () => this.#over(() => openYou(this)),
    });
    this.#composer = new Composer({
      send: (body) => this.#send(body),
      typing: () => this.room?.handle.typing(),
      escape: () => this.#timeline?.showNewest(),
      upward: () => this.#timeline?.focus(),
    });
    this.#people.append(icon(ICONS.people), h("span", {}));
    this.#people.addEventListener("click", () => this.room && peopleHere(this, this.room));
    const details = iconButton("M10 9v5M10 6v.2M10 2.500a7.500 7.500 0 1 1 0 15a7.500 7.500 0 0 1 0-15", "About this channel", () => this.details());
    const status = banner(hubbub);
    const main = h(
      "main",
      { class: "main" },
      h(
        "header",
        { class: "channel-head" },
        iconButton(ICONS.menu, "Channels", () => this.#sidebar.open(), "sheet-button"),
        this.#sign,
        h("div", { class: "channel-title" }, this.#title, this.#topic),
        this.#people,
        details,
      ),
      h("div", { class: "middle" }, status.element, this.#stage),
      h("div", { class: "foot" }, this.#notice, this.#composer.element, this.#typing),
    );
    fill(root, [this.#sidebar.element, main]);

    const listen = <K extends keyof WindowEventMap>(event: K, run: (event: WindowEventMap[K]) => void) => {
      addEventListener(event, run);
      this.#off.push(() => removeEventListener(event, run));
    };
    listen("hashchange", () => this.#follow());
    listen("focus", () => void this.rooms.loadIfOld().catch(() => undefined));
    listen("online", () => hubbub.retryNow());
    listen("beforeunload", (event) => {
      for (const room of this.rooms.all) if (room.unsent > 0) event.preventDefault();
    });
    this.#off.push(
      status.stop,
      openKeys(this, {
        switch: () => openSwitcher(this),
        sheet: () => this.#sidebar.close(),
        compose: () => this.#composer.focus(),
        isComposing: () => this.#composer.hasFocus,
      }),
      hubbub.on("state", () => this.draw()),
      hubbub.on("welcome", () => void this.#load()),
    );
  }

  /** From the first welcome on. `isNew`: the account was made a moment ago. */
  async start(isNew: boolean, left: readonly Left[]): Promise<void> {
    for (const one of left) this.rooms.named(one.channel).takeOver(one);
    const wanted = route().channel ?? (isNew ? FIRST_CHANNEL : lastChannel());
    if (isNew) await this.#enterFirst();
    if (wanted !== undefined) routeTo(wanted, route().sequence, true);
    this.#follow();
    await this.#load();
    const first = this.rooms.list[0];
    if (this.room === undefined && first !== undefined) {
      routeTo(first.channel, undefined, true);
      this.#follow();
    }
    this.draw();
  }

  /** What would be lost with this page. */
  get left(): Left[] {
    if (this.room !== undefined) this.room.draft = this.#composer.draft;
    return [...this.rooms.all].map((room) => room.left).filter(isSomething);
  }

  stop(): void {
    for (const off of this.#off) off();
    this.#timeline?.destroy();
    for (const room of [...this.rooms.all]) this.rooms.drop(room);
    document.title = "hubbub";
  }

  /** Draws what changed, once, before the next frame: or soon, where no frames are drawn. */
  draw(): void {
    if (this.#drawing) return;
    this.#drawing = true;
    const run = () => {
      this.#drawing = false;
      this.#draw();
    };
    if (document.hidden) setTimeout(run, 0);
    else requestAnimationFrame(run);
  }

  /** Joins and looks at it. Rejects with the refusal. */
  async join(name: string): Promise<void> {
    await this.hubbub.channel(name).join();
    const room = this.rooms.take(await this.hubbub.getChannel(name));
    await room.subscribe();
    this.go(room.channel);
  }

  go(name: string): void {
    this.#sidebar.close();
    if (route().channel !== name) return routeTo(name);
    routeTo(name, undefined, true);
    this.#follow();
  }

  /** The next channel with something new, or just the next one. */
  step(by: 1 | -1): void {
    const list = this.rooms.list;
    const here = this.room === undefined ? -1 : list.indexOf(this.room);
    const around = list.map((_, i) => list[(here + by * (i + 1) + list.length * (by === 1 ? 1 : 2)) % list.length] as Room);
    const next = around.find((room) => this.unread(room) > 0) ?? around[0];
    if (next !== undefined) this.go(next.channel);
  }

  /** What nobody has seen. A message that appears before somebody's eyes never counts, not for a frame. */
  unread(room: Room): number {
    return room === this.room && this.#isAtNewest && document.hasFocus() ? 0 : room.unread;
  }

  details(): void {
    if (this.room !== undefined) channelDetails(this, this.room);
  }

  /** Shows the newest of the channel that is looked at. */
  showNewest(): void {
    this.#timeline?.showNewest();
  }

  /** A dialog opened from the sheet takes its place. */
  #over(open: () => void): void {
    this.#sidebar.close();
    open();
  }

  async #load(): Promise<void> {
    // What could not be shown without a connection can be now.
    if (this.room !== undefined && !this.room.loaded) void this.#enter(this.room);
    try {
      await this.rooms.load();
    } catch (error) {
      toastError(`Your channels could not be listed. ${explain(error)}`);
    }
    if (this.room !== undefined) this.#unrollIfReady(this.room, true);
    this.draw();
  }

  /** A new user lands where the others are: the server's first user makes that place. */
  async #enterFirst(): Promise<void> {
    try {
      await this.hubbub.channel(FIRST_CHANNEL).join();
    } catch {
      // Nobody made it yet, or it is private; then the list is where to begin.
      await this.hubbub.createChannel({ name: FIRST_CHANNEL, topic: "Where everybody arrives" }).then(
        () => undefined,
        () => this.hubbub.channel(FIRST_CHANNEL).join().then(() => undefined, () => undefined),
      );
    }
  }

  /** Goes where the address says. */
  #follow(): void {
    const { channel } = route();
    if (channel === undefined) return;
    if (channel !== this.room?.channel) this.#show(this.rooms.named(channel));
    if (this.room !== undefined) this.#jump(this.room);
  }

  #show(room: Room): void {
    this.#leaveRoom();
    this.room = room;
    room.visitedAt = Date.now();
    this.#shownAs = room.channel;
    this.#composer.show(room.draft);
    fill(this.#stage, []);
    this.#unrollIfReady(room);
    void this.#enter(room);
    this.#draw();
    if (matchMedia("(min-width: 720px)").matches && !this.#composer.element.hidden) this.#composer.focus();
    else this.#title.focus();
  }

  /** Waits for how far a member has read, too: what is shown first depends on it, and what is shown counts as read. */
  #unrollIfReady(room: Room, isListed = this.rooms.known): void {
    const isKnown = isListed || room.read !== undefined || (room.info !== undefined && !room.isMember);
    if (room !== this.room || !room.loaded || !isKnown || this.#timeline !== undefined) return;
    this.#unroll(room);
    this.#jump(room);
  }

  /** Draws its messages, once the newest are there: before, an empty list would claim that there are none. */
  #unroll(room: Room): void {
    const root = h("div", { class: "timeline-root" });
    fill(this.#stage, [root]);
    this.#isAtNewest = true;
    this.#timeline = new Timeline(root, room, {
      onReadUpTo: (sequence) => room.markRead(sequence),
      onAtNewest: (isAtNewest) => {
        this.#isAtNewest = isAtNewest;
        this.draw();
      },
      beginning: () => beginning(this, room),
    });
    this.#timeline.markUnreadFrom(room.unreadFrom);
    // Reading goes on where it ended: at the newest, nobody would have seen what counts as read then.
    this.#timeline.showUnread();
    this.#timeline.changed();
  }

  async #enter(room: Room): Promise<void> {
    // All three at once: what is new, the newest page, and what the channel is.
    const info = room.info === undefined ? this.rooms.ask(room) : undefined;
    const results = await Promise.allSettled([room.open(), room.subscribe(), info]);
    const failed = results.find((result) => result.status === "rejected");
    if (failed !== undefined && room.info === undefined) room.problem ??= explain(failed.reason);
    if (this.room !== room) return;
    if (room.info !== undefined) keepLastChannel(room.channel);
    this.#unrollIfReady(room);
    this.draw();
  }

  /** Where the address names a message of this channel. */
  #jump(room: Room): void {
    const { channel, sequence } = route();
    if (sequence === undefined || channel !== room.channel || this.#timeline === undefined) return;
    this.#timeline.jumpTo(sequence).catch((error: unknown) => toastError(explain(error)));
  }

  #leaveRoom(): void {
    const room = this.room;
    if (room === undefined) return;
    room.draft = this.#composer.draft;
    this.#timeline?.destroy();
    this.#timeline = undefined;
    room.close();
    // What was only looked at needs no subscription any more, unless something of ours is on its way there.
    if (!room.isMember && !isSomething(room.left)) this.rooms.drop(room);
    this.room = undefined;
  }

  #send(body: string): void {
    const room = this.room;
    if (room === undefined) return;
    this.#timeline?.markUnreadFrom(undefined);
    room.send(body);
    this.#timeline?.showNewest();
  }

  #told(room: Room, change: RoomChange): void {
    if (change === "ended") {
      const isShown = room === this.room;
      if (isShown) this.#leaveRoom();
      const { draft, outgoing } = room.left;
      const texts = [...outgoing.map(({ body }) => body), draft.trim()].filter((text) => text !== "");
      if (isShown) {
        fill(this.#stage, [noAccess(this, room.channel, { problem: room.ending, texts })]);
        routeTo(undefined, undefined, true);
      } else {
        toastError(`#${room.channel} is gone from your channels. ${room.ending}${texts.length === 0 ? "" : ` You had written there: ${texts.join("\n")}`}`);
      }
      this.rooms.drop(room);
    } else if (change === "log" && room === this.room) {
      this.#timeline?.changed();
    } else if (room === this.room && room.unread === 1 && !document.hasFocus()) {
      this.#timeline?.markUnreadFrom((room.read ?? room.log.newest - 1) + 1);
    }
    if (room === this.room) this.#unrollIfReady(room);
    this.draw();
  }

  #draw(): void {
    const room = this.room;
    if (room !== undefined && room.channel !== this.#shownAs) {
      if (route().channel === this.#shownAs) routeTo(room.channel, undefined, true);
      this.#shownAs = room.channel;
      if (room.info !== undefined) keepLastChannel(room.channel);
    }
    let unread = 0;
    for (const one of this.rooms.list) unread += this.unread(one);
    document.title = `${unread > 0 ? `(${unread}) ` : ""}${room ? `#${room.channel} · ` : ""}hubbub`;
    this.#sidebar.draw();
    this.#drawHead(room);
    this.#drawFoot(room);
    if (room === undefined) {
      if (this.rooms.known && this.#stage.childElementCount === 0) fill(this.#stage, [noChannel(this)]);
      return;
    }
    // Something is said where nothing can be shown.
    const said = this.#stage.querySelector<HTMLElement>(".empty");
    if (said !== null && said.dataset.problem !== room.problem) said.remove();
    if (room.problem !== undefined && said?.dataset.problem !== room.problem) {
      const page = noAccess(this, room.channel, { problem: room.problem, retry: () => this.#retry(room) });
      page.dataset.problem = room.problem;
      this.#stage.append(page);
    }
  }

  #retry(room: Room): void {
    room.problem = undefined;
    void this.#enter(room);
    this.draw();
  }

  #drawHead(room: Room | undefined): void {
    say(this.#title, room?.channel ?? "");
    const sign = room === undefined ? "" : room.info?.visibility === "private" ? ICONS.lock : ICONS.hash;
    if (this.#sign.dataset.sign !== sign) {
      this.#sign.dataset.sign = sign;
      fill(this.#sign, [sign !== "" && icon(sign)]);
    }
    say(this.#topic, room?.info?.topic ?? "");
    this.#topic.title = room?.info?.topic ?? "";
    const here = room?.presence().userCount ?? 0;
    this.#people.hidden = room === undefined || here === 0;
    say(this.#people.lastElementChild as Element, here.toLocaleString("en"));
    this.#people.setAttribute("aria-label", `${plural(here, "person", "people")} here`);
    this.#people.title = `${plural(here, "person", "people")} here`;
  }

  #drawFoot(room: Room | undefined): void {
    const info = room?.info;
    const mayPost =
      info !== undefined && !info.archived && (info.role === "owner" || info.role === "moderator" || info.posting === "everyone" || (info.posting === "members" && info.role !== undefined));
    const reason = info === undefined || mayPost ? undefined : info.archived ? "This channel is archived: it can be read, and takes no messages." : info.posting === "members" ? "Members write here." : "Moderators write here.";
    const wasComposing = this.#composer.hasFocus;
    this.#composer.allow(room !== undefined && reason === undefined, room === undefined ? "" : `Message #${room.channel}`);
    this.#composer.element.hidden = room === undefined || reason !== undefined || (info === undefined && room.problem !== undefined);
    // What had the focus is gone: the keyboard goes on from the channel's name.
    if (this.#composer.element.hidden && wasComposing) this.#title.focus();
    const join = info !== undefined && info.role === undefined;
    const text = `${reason ?? ""} ${join ? "You are looking at this channel from outside." : ""}`.trim();
    if (this.#notice.dataset.text !== text) {
      this.#notice.dataset.text = text;
      fill(this.#notice, text === "" ? [] : [h("span", {}, text), join && h("button", { type: "button", class: "secondary", on: { click: () => this.join(info.name).catch((e: unknown) => toastError(explain(e))) } }, "Join")]);
    }
    // Without a connection nobody knows who writes.
    say(this.#typing, room === undefined || this.hubbub.state.state !== "connected" ? "" : writing(room));
  }
}

function isSomething({ draft, outgoing }: Left): boolean {
  return draft.trim() !== "" || outgoing.length > 0;
}

function writing(room: Room): string {
  // A name in another direction turns nothing but itself.
  const names = room.typing.map((id) => room.name(id)).filter((name) => name !== "").map((name) => `\u2068${name}\u2069`);
  const [first, second] = names;
  if (first === undefined) return "";
  if (second === undefined) return `${first} is writing…`;
  return names.length === 2 ? `${first} and ${second} are writing…` : "Several people are writing…";
}
