// Ctrl/Cmd-K: a few letters, Enter, and there you are. The user's channels first, with what is unread on
// top; then public ones; then the offer to make it.
import type { App } from "./app";
import { createChannel } from "./channels";
import { openDialog } from "./dialog";
import { fill, h, icon, ICONS } from "./dom";
import type { Room } from "./room";

const SHOWN_MAX = 12;
const ASK_AFTER_MS = 150;

type Choice = { readonly name: string; readonly sign: string; readonly side: string; run(): void };

let ids = 0;

export function openSwitcher(app: App): void {
  if (document.querySelector(".switcher[open]") !== null) return;
  const id = `switcher-${++ids}`;
  const dialog = openDialog("Go to channel", { class: "switcher", untitled: true, closed: () => clearTimeout(timer) });
  const input = h("input", {
    class: "switcher-input", placeholder: "Go to channel…", role: "combobox", autocomplete: "off", autocapitalize: "none", spellcheck: "false",
    aria: { label: "Channel", expanded: "true", controls: id, autocomplete: "list" },
  });
  const list = h("ul", { class: "switcher-list", id, role: "listbox", aria: { label: "Channels" } });
  const nothing = h("p", { class: "meta switcher-none", hidden: true }, "No channel of this name. Names have a–z, 0–9 and . _ - between them.");
  let choices: Choice[] = [];
  let chosen = 0;
  let found: { name: string; topic: string }[] = [];
  let asked = "";
  let timer: ReturnType<typeof setTimeout> | undefined;

  const text = () => input.value.trim().toLowerCase().replace(/^#/, "");

  function draw(): void {
    const wanted = text();
    const mine = app.rooms.list
      .filter((room) => room.channel.includes(wanted))
      .sort((one, other) => rank(app, other, wanted) - rank(app, one, wanted) || other.visitedAt - one.visitedAt);
    choices = mine.map((room) => ({
      name: room.channel,
      sign: room.info?.visibility === "private" ? ICONS.lock : ICONS.hash,
      side: room === app.room ? "here" : room.unread > 0 ? `${room.unread} unread` : "",
      run: () => app.go(room.channel),
    }));
    const known = new Set(choices.map((choice) => choice.name));
    for (const { name, topic } of found) {
      if (!known.has(name) && name.includes(wanted)) choices.push({ name, sign: ICONS.hash, side: topic === "" ? "not joined" : topic, run: () => app.go(name) });
    }
    choices = choices.slice(0, SHOWN_MAX);
    if (/^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$/.test(wanted) && !choices.some((choice) => choice.name === wanted)) {
      choices.push({ name: `Make #${wanted}`, sign: ICONS.plus, side: "", run: () => createChannel(app, wanted) });
    }
    chosen = Math.min(chosen, Math.max(0, choices.length - 1));
    fill(list, choices.map((choice, i) => {
      const row = h("li", { id: `${id}-${i}`, role: "option", aria: { selected: String(i === chosen) } }, icon(choice.sign), h("span", { class: "label" }, choice.name), h("span", { class: "meta side", dir: "auto" }, choice.side));
      row.addEventListener("click", () => take(i));
      row.addEventListener("mousemove", () => choose(i));
      return row;
    }));
    nothing.hidden = choices.length > 0;
    input.setAttribute("aria-activedescendant", choices.length > 0 ? `${id}-${chosen}` : "");
  }

  function choose(i: number): void {
    if (i === chosen) return;
    list.children[chosen]?.setAttribute("aria-selected", "false");
    chosen = i;
    const row = list.children[chosen];
    row?.setAttribute("aria-selected", "true");
    row?.scrollIntoView({ block: "nearest" });
    input.setAttribute("aria-activedescendant", `${id}-${chosen}`);
  }

  function take(i: number): void {
    const choice = choices[i];
    if (choice === undefined) return;
    dialog.close();
    choice.run();
  }

  async function ask(): Promise<void> {
    const wanted = text();
    if (wanted === asked && found.length > 0) return;
    asked = wanted;
    try {
      const page = await app.hubbub.listChannels({ prefix: wanted, limit: 20, archived: false });
      if (asked !== wanted) return;
      found = page.channels;
      draw();
    } catch {
      // The user's own channels are there all the same; the banner says what is wrong.
    }
  }

  input.addEventListener("input", () => {
    chosen = 0;
    draw();
    clearTimeout(timer);
    timer = setTimeout(() => void ask(), ASK_AFTER_MS);
  });
  input.addEventListener("keydown", (event) => {
    if (event.isComposing || choices.length === 0) return;
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      choose((chosen + (event.key === "ArrowDown" ? 1 : -1) + choices.length) % choices.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      take(chosen);
    }
  });
  const box = h("div", { class: "switcher-box" }, input);
  box.prepend(icon(ICONS.search));
  dialog.body.append(box, list, nothing);
  input.focus();
  draw();
  void ask();
}

/** Higher is nearer the top: what begins so, then what is unread, then the rest, then the one that is open. */
function rank(app: App, room: Room, wanted: string): number {
  if (room === app.room) return -1;
  return (wanted !== "" && room.channel.startsWith(wanted) ? 2 : 0) + (app.unread(room) > 0 ? 1 : 0);
}
