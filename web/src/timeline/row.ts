// One row → its element. An element outlives what it shows: it is filled again when its `look`
// changes, so that neither focus nor the place in the list is lost.
import type { ChannelChange } from "@hubbub/client";
import { fill, h } from "../dom.ts";
import { hueOf } from "../hue.ts";
import { isOnlyEmoji, renderText } from "../text/render.ts";
import { dayName, fullTime, timeOfDay } from "../time.ts";
import type { Outgoing } from "./log.ts";
import { type Row, writtenAt } from "./rows.ts";
import { RANGE_MESSAGES_MAX, type Source } from "./source.ts";

/** What a row shows besides the row itself. */
export interface Look {
  readonly source: Source;
  /** The days "Today" and "Yesterday" are told from. */
  readonly now: number;
  /** How often somebody asked for more of a long message, by the row's key. */
  readonly expanded: ReadonlyMap<string, number>;
  /** What is being loaded or could not be, by the row's key: "" while it is under way. */
  readonly loading: ReadonlyMap<string, string>;
  /** Says what a new channel is for; the shell's. */
  readonly beginning: (() => Node) | undefined;
}

/** Past either of these a message is cut until somebody asks for more of it. */
const SHOWN_CHARS_MAX = 2_000;
const SHOWN_LINES_MAX = 24;
const CUT_CHARS = 1_000;
const CUT_LINES = 14;
/** What each asking brings: all of most messages, and of the longest as much as one frame can lay out. */
const STEP_CHARS = 16_384;
const STEP_LINES = 1_000;

/** Changes exactly when the element must be filled again. */
export function signature(row: Row, key: string, look: Look): string {
  const { source } = look;
  switch (row.kind) {
    case "message":
      return `${row.isGrouped}|${source.name(row.message.userId)}|${source.channel}|${look.expanded.get(key)}`;
    case "outgoing":
      return `${row.isGrouped}|${source.name(source.me)}|${row.outgoing.state}|${row.outgoing.error}|${look.expanded.get(key)}`;
    case "change":
      return `${source.name(row.change.userId)}|${row.change.kind === "membership" ? source.name(row.change.memberId) : ""}`;
    case "day":
      return dayName(row.at, look.now);
    case "gap":
      return `${look.loading.get(key)}`;
    case "top":
      return `${row.isBeginning}|${look.loading.get("top")}|${source.channel}`;
    case "unread":
      return "";
  }
}

/** Fills `element` with what the row shows now. */
export function fillRow(element: HTMLElement, row: Row, key: string, look: Look): void {
  element.className = `row ${row.kind}`;
  switch (row.kind) {
    case "message":
      return fillMessage(element, row, key, look);
    case "outgoing":
      return fillOutgoing(element, row, key, look);
    case "change":
      setRole(element, "article", undefined);
      return fill(element, [
        h("div", { class: "text" }, ...sentence(row.change, look.source)),
        permalink(row.sequence, row.change.at, look.source),
      ]);
    case "day":
      setRole(element, "separator", dayName(row.at, look.now));
      return fill(element, [h("span", { class: "day-name" }, dayName(row.at, look.now))]);
    case "unread":
      setRole(element, "separator", "New since you left");
      return fill(element, [h("span", {}, "New since you left")]);
    case "gap":
      return fillGap(element, row.to - row.sequence + 1, look.loading.get(key));
    case "top":
      return fillTop(element, row.isBeginning, look);
  }
}

/** A guess at the height, near enough that a scroll bar does not jump when the row is measured. */
export function estimate(row: Row, column: number): number {
  switch (row.kind) {
    case "message":
      return textHeight(row.message.body, column) + (row.isGrouped ? 4 : 42);
    case "outgoing":
      return textHeight(row.outgoing.body, column) + (row.isGrouped ? 4 : 42);
    case "change":
      return 29;
    case "day":
      return 52;
    case "unread":
      return 33;
    case "gap":
    case "top":
      return 60;
  }
}

const LINE = 22.5;
/** The mean width of a character of the body's type. */
const CHAR = 7.3;

function textHeight(body: string, column: number): number {
  const perLine = Math.max(8, column / CHAR);
  if (body.length <= perLine && !body.includes("\n")) return LINE;
  if (body.length > SHOWN_CHARS_MAX) return Math.min(CUT_LINES, CUT_CHARS / perLine) * LINE + 36;
  let lines = 0;
  for (let from = 0; from <= body.length && lines <= SHOWN_LINES_MAX; ) {
    const end = body.indexOf("\n", from);
    const to = end < 0 ? body.length : end;
    lines += Math.max(1, Math.ceil((to - from) / perLine));
    from = to + 1;
  }
  return Math.min(lines, SHOWN_LINES_MAX) * LINE;
}

function fillMessage(element: HTMLElement, row: Row & { kind: "message" }, key: string, look: Look): void {
  const { message, isGrouped } = row;
  const { source } = look;
  element.classList.toggle("grouped", isGrouped);
  const at = writtenAt(message);
  setRole(element, "article", `${shownName(message.userId, source)}, ${timeOfDay(at)}`);
  fill(element, [
    ...header(message.userId, isGrouped, source, permalink(message.sequence, at, source)),
    ...body(message.body, look.expanded.get(key) ?? 0),
  ]);
}

function fillOutgoing(element: HTMLElement, row: Row & { kind: "outgoing" }, key: string, look: Look): void {
  const { outgoing, isGrouped } = row;
  const { source } = look;
  element.classList.toggle("grouped", isGrouped);
  element.classList.add(outgoing.state);
  setRole(element, "article", `${shownName(source.me, source)}, ${stateName(outgoing)}`);
  const isPending = outgoing.state === "pending";
  const time = h("span", { class: isPending ? "time late" : "time" }, isPending ? "sending" : timeOfDay(outgoing.at));
  fill(element, [
    ...header(source.me, isGrouped, source, time),
    ...body(outgoing.body, look.expanded.get(key) ?? 0),
    outgoing.state === "failed" &&
      h(
        "div",
        { class: "failure" },
        h("span", { class: "mark", aria: { hidden: "true" } }, "!"),
        h("span", {}, `Not sent: ${outgoing.error ?? "no answer"}`),
        act("Try again", "retry"),
        act("Discard", "discard"),
      ),
  ]);
}

function stateName(outgoing: Outgoing): string {
  return { pending: "sending", sent: "sent", failed: "not sent" }[outgoing.state];
}

function header(userId: number, isGrouped: boolean, source: Source, time: HTMLElement): HTMLElement[] {
  const name = shownName(userId, source);
  const hue = `hue-${hueOf(userId)}`;
  if (isGrouped) {
    time.classList.add("side");
    return [h("bdi", { class: "unseen" }, `${name}, `), time];
  }
  return [
    h("span", { class: `avatar ${hue}`, aria: { hidden: "true" } }, initials(name)),
    h("div", { class: "head" }, h("bdi", { class: `name ${hue}` }, name), time),
  ];
}

function body(source: string, steps: number): HTMLElement[] {
  const cut = cutAt(source, steps);
  const node = h("div", { class: isOnlyEmoji(source) ? "body emoji" : "body" }, ...renderText(source.slice(0, cut)));
  if (cut < source.length) {
    node.classList.add("cut");
    if (steps === 0) node.classList.add("short");
    const isAll = cutAt(source, steps + 1) === source.length;
    return [node, h("div", { class: "more" }, act(`${isAll ? "Show all" : "Show more"} (${size(source)})`, "expand"))];
  }
  return steps > 0 ? [node, h("div", { class: "more" }, act("Show less", "collapse"))] : [node];
}

/** How much of a message is shown: so many lines, so many characters, no half of one. */
export function cutAt(source: string, steps: number): number {
  if (isShort(source)) return source.length;
  const lines = steps === 0 ? CUT_LINES : steps * STEP_LINES;
  let cut = Math.min(source.length, steps === 0 ? CUT_CHARS : steps * STEP_CHARS);
  for (let at = source.indexOf("\n"), seen = 1; at >= 0 && at < cut; at = source.indexOf("\n", at + 1), seen++) {
    if (seen === lines) cut = at;
  }
  return /[\ud800-\udbff]/.test(source[cut - 1] ?? "") ? cut - 1 : cut;
}

function isShort(source: string): boolean {
  if (source.length > SHOWN_CHARS_MAX) return false;
  let lines = 1;
  for (let at = source.indexOf("\n"); at >= 0; at = source.indexOf("\n", at + 1)) lines++;
  return lines <= SHOWN_LINES_MAX;
}

function size(source: string): string {
  const lines = source.split("\n").length;
  return lines > SHOWN_LINES_MAX ? `${lines.toLocaleString()} lines` : `${source.length.toLocaleString()} characters`;
}

function permalink(sequence: number, at: number, source: Source): HTMLElement {
  return h(
    "a",
    { class: "time", href: `#${encodeURIComponent(source.channel)}/${sequence}`, title: fullTime(at), tabindex: -1 },
    h("time", { datetime: new Date(at).toISOString() }, timeOfDay(at)),
  );
}

function fillGap(element: HTMLElement, count: number, loading: string | undefined): void {
  setRole(element, "article", undefined);
  const text = count === 1 ? "1 message was not loaded" : `${count.toLocaleString()} messages were not loaded`;
  fill(element, [
    loading === "" ? h("span", {}, `Loading ${Math.min(count, RANGE_MESSAGES_MAX)} of ${count.toLocaleString()} …`) : h("span", {}, text),
    loading !== "" && loading !== undefined && h("span", { class: "why" }, loading),
    loading !== "" && count <= RANGE_MESSAGES_MAX && act(count === 1 ? "Load it" : "Load them", "gap-first"),
    loading !== "" && count > RANGE_MESSAGES_MAX && act(`Load the first ${RANGE_MESSAGES_MAX}`, "gap-first"),
    loading !== "" && count > RANGE_MESSAGES_MAX && act(`the last ${RANGE_MESSAGES_MAX}`, "gap-last"),
  ]);
}

function fillTop(element: HTMLElement, isBeginning: boolean, look: Look): void {
  setRole(element, "article", undefined);
  if (isBeginning) {
    element.classList.add("beginning");
    const own = look.beginning?.() ?? h("p", {}, "This is the beginning of ", h("bdi", {}, `#${look.source.channel}`), ".");
    return fill(element, [own]);
  }
  const failure = look.loading.get("top");
  if (failure === undefined || failure === "") return fill(element, [h("span", {}, "Loading earlier messages …")]);
  fill(element, [h("span", { class: "why" }, `Earlier messages could not be loaded: ${failure}`), act("Try again", "earlier")]);
}

/** A button in a row; the list acts on it, by delegation. */
function act(label: string, action: string): HTMLElement {
  return h("button", { type: "button", class: "act", data: { act: action } }, label);
}

function setRole(element: HTMLElement, role: string, label: string | undefined): void {
  element.setAttribute("role", role);
  if (label === undefined) element.removeAttribute("aria-label");
  else element.setAttribute("aria-label", label);
}

export function shownName(userId: number, source: Source): string {
  return source.name(userId) || `user ${userId}`;
}

/** The first letters of the first two words: "ana.lopez" → "AL". Whole characters, not code units. */
function initials(name: string): string {
  const words = name.match(/[\p{L}\p{N}]+/gu) ?? [name];
  const letters = words.slice(0, 2).map((word) => [...word][0] ?? "");
  return letters.join("").toLocaleUpperCase();
}

function sentence(change: ChannelChange, source: Source): (Node | string)[] {
  const who = h("bdi", { class: "who" }, shownName(change.userId, source));
  switch (change.kind) {
    case "membership": {
      const isSelf = change.memberId === change.userId;
      const whom = h("bdi", { class: "who" }, shownName(change.memberId, source));
      if (change.role === undefined) return isSelf ? [who, " left"] : [who, " removed ", whom];
      if (isSelf) return [who, change.role === "member" ? " joined" : ` joined as ${change.role}`];
      if (change.role === "member") return [who, " added ", whom, " as a member"];
      return [who, " made ", whom, change.role === "owner" ? " an owner" : ` a ${change.role}`];
    }
    case "settings": {
      const topic = change.topic === "" ? [] : [": ", h("bdi", {}, change.topic)];
      const kind = `${change.visibility}${change.archived ? ", archived" : ""}`;
      return [who, " set the channel to ", h("bdi", {}, `#${change.name}`), `, ${kind}`, ...topic];
    }
    case "deletion":
      return [who, " deleted the channel"];
  }
}

/** The text that "copy" takes. */
export function textOf(row: Row): string | undefined {
  return row.kind === "message" ? row.message.body : row.kind === "outgoing" ? row.outgoing.body : undefined;
}
