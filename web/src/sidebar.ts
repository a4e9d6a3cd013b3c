// The channels with what is unread, then who is here. A column beside the messages; a sheet over them
// where there is no room for two.
import type { App } from "./app";
import { h, icon, iconButton, ICONS, keyed, say } from "./dom";
import { hueOf } from "./hue";
import type { Room } from "./room";

/** More people than this are a number, and a list of their own. */
const NAMED_MAX = 40;
const NARROW = "(max-width: 719.98px)";

export type SidebarEvents = { create(): void; browse(): void; switch(): void; you(): void };

export class Sidebar {
  readonly element = h("div", { class: "sidebar-place" });
  readonly #aside = h("aside", { class: "sidebar", aria: { label: "Channels and people" } });
  readonly #channels = h("ul", { class: "channels" });
  readonly #none = h("p", { class: "meta none" }, "You are in no channel yet.");
  readonly #people = h("ul", { class: "people" });
  readonly #peopleTitle = h("h2", {});
  readonly #peoplePart = h("section", { class: "people-part" });
  readonly #state = h("span", { class: "meta" });
  readonly #narrow = matchMedia(NARROW);
  #before: Element | null = null;
  #isOpen = false;

  constructor(
    readonly app: App,
    events: SidebarEvents,
  ) {
    const mac = /Mac|iPhone|iPad/.test(navigator.platform);
    const find = h("button", { type: "button", class: "find", on: { click: events.switch } }, h("span", {}, "Go to channel"), h("kbd", { aria: { hidden: true } }, mac ? "⌘K" : "Ctrl K"));
    find.prepend(icon(ICONS.search));
    const name = h("span", { class: "you-name", dir: "auto" }, app.user.name);
    name.style.setProperty("color", `var(--hue-${hueOf(app.user.id)})`);
    this.#peoplePart.append(this.#peopleTitle, this.#people);
    this.#aside.append(
      h("div", { class: "sidebar-top" }, h("span", { class: "wordmark" }, "hubbub"), iconButton(ICONS.close, "Close", () => this.close(), "sheet-close")),
      find,
      h(
        "nav",
        { class: "sidebar-middle", aria: { label: "Channels" } },
        h("section", {}, h("div", { class: "section-head" }, h("h2", {}, "Channels"), iconButton(ICONS.plus, "Make a channel", events.create)), this.#channels, this.#none, h("button", { type: "button", class: "browse", on: { click: events.browse } }, "Browse all channels")),
        this.#peoplePart,
      ),
      h("button", { type: "button", class: "you", title: "You, theme and keys", on: { click: events.you } }, name, this.#state),
    );
    this.element.append(this.#aside);
    this.element.addEventListener("mousedown", (event) => {
      if (event.target === this.element) this.close();
    });
    this.#narrow.addEventListener("change", () => this.#arrange());
    this.#arrange();
  }

  open(): void {
    if (!this.#narrow.matches) return;
    this.#before = document.activeElement;
    this.#isOpen = true;
    this.#arrange();
    const current = this.#channels.querySelector<HTMLElement>("[aria-current]");
    (current ?? this.#aside.querySelector<HTMLElement>("button"))?.focus();
  }

  /** Says whether there was something to close. */
  close(): boolean {
    if (!this.#isOpen) return false;
    this.#isOpen = false;
    this.#arrange();
    if (this.#before instanceof HTMLElement && this.#before.isConnected) this.#before.focus();
    return true;
  }

  #arrange(): void {
    const isSheet = this.#narrow.matches;
    if (!isSheet) this.#isOpen = false;
    this.element.dataset.open = String(this.#isOpen);
    // What is not seen cannot be reached by the keyboard either; under a sheet that is the rest of the page.
    this.#aside.inert = isSheet && !this.#isOpen;
    const main = document.querySelector("main");
    if (main !== null) main.inert = isSheet && this.#isOpen;
  }

  draw(): void {
    const { app } = this;
    const rooms: Room[] = [...app.rooms.list];
    // What is looked at from outside stands in the list as long as that lasts.
    if (app.room !== undefined && app.room.info !== undefined && !app.room.isMember) rooms.push(app.room);
    keyed(this.#channels, rooms, (room) => String(room.info?.id), () => this.#makeRow(), (row, room) => this.#drawRow(row, room));
    this.#none.hidden = rooms.length > 0 || !app.rooms.known;

    const presence = app.room?.presence();
    const ids = presence?.userIds ?? [];
    this.#peoplePart.hidden = presence === undefined || presence.userCount === 0;
    say(this.#peopleTitle, `Here now · ${(presence?.userCount ?? 0).toLocaleString("en")}`);
    const named = ids.map((id) => ({ id, name: app.names.of(id) })).filter(({ name }) => name !== "").sort((one, other) => one.name.localeCompare(other.name)).slice(0, NAMED_MAX);
    keyed(this.#people, named, ({ id }) => String(id), makePerson, (row, { id, name }) => {
      row.style.setProperty("--hue", `var(--hue-${hueOf(id)})`);
      say(row.lastElementChild as Element, id === app.user.id ? `${name} (you)` : name);
    });
    const state = app.hubbub.state.state;
    say(this.#state, state === "connected" ? "live" : navigator.onLine ? "reconnecting" : "offline");
  }

  #makeRow(): HTMLLIElement {
    const link = h("a", { class: "channel", href: "#" }, h("span", { class: "sign", aria: { hidden: true } }), h("span", { class: "label" }), h("span", { class: "count" }));
    // The same address again closes the sheet and goes to the newest message.
    link.addEventListener("click", (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey) return;
      event.preventDefault();
      const name = link.dataset.name ?? "";
      if (this.app.room?.channel === name) this.app.showNewest();
      this.app.go(name);
    });
    return h("li", {}, link);
  }

  #drawRow(row: HTMLLIElement, room: Room): void {
    const link = row.firstElementChild as HTMLAnchorElement;
    const [sign, label, unread] = link.children as unknown as [HTMLElement, HTMLElement, HTMLElement];
    if (link.dataset.name !== room.channel) {
      link.dataset.name = room.channel;
      link.setAttribute("href", `#${room.channel}`);
    }
    const isPrivate = room.info?.visibility === "private";
    if (sign.dataset.kind !== String(isPrivate)) {
      sign.dataset.kind = String(isPrivate);
      sign.replaceChildren(icon(isPrivate ? ICONS.lock : ICONS.hash));
    }
    say(label, room.channel);
    const isCurrent = room === this.app.room;
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    const count = this.app.unread(room);
    say(unread, count > 999 ? "999+" : count > 0 ? String(count) : "");
    link.dataset.unread = String(count > 0);
    link.setAttribute("aria-label", `${room.channel}${isPrivate ? ", private" : ""}${count > 0 ? `, ${count} unread` : ""}${room.isMember ? "" : ", not joined"}`);
  }
}

function makePerson(): HTMLLIElement {
  return h("li", {}, h("span", { class: "here-dot", aria: { hidden: true } }), h("span", { class: "person", dir: "auto" }));
}
