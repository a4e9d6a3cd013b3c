// Where there is nothing yet: what to do about it, with the real address filled in.
import type { App } from "./app";
import { browseChannels, createChannel } from "./channels";
import { fill, h, iconButton, ICONS } from "./dom";
import type { Room } from "./room";
import { note } from "./toasts";

/** Above the first message of a channel, and all there is before it. */
export function beginning(app: App, room: Room): HTMLElement {
  const { origin } = location;
  const name = room.channel;
  const isPrivate = room.info?.visibility === "private";
  const curl = [
    `token=$(curl -s ${origin}/v1/token -d grant_type=password \\`,
    `  -d username=${app.user.name} -d password=… | sed 's/.*"access_token":"\\([^"]*\\).*/\\1/')`,
    `curl ${origin}/v1/channels/${name}/messages -H "Authorization: Bearer $token" \\`,
    `  -H 'Content-Type: application/json' -d '{"body":"hello from curl"}'`,
  ].join("\n");
  const invite = isPrivate
    ? h("p", {}, "Only its members see it. ", h("button", { type: "button", class: "link", on: { click: () => app.details() } }, "Invite somebody by name"), ".")
    : h("p", {}, "To bring somebody along, send them the address. They can make an account there.");
  return h(
    "div",
    { class: "beginning-text" },
    h("h2", {}, "This is ", h("bdi", {}, `#${name}`)),
    h("p", {}, "This is where it begins. What you write, everybody here sees at once."),
    invite,
    !isPrivate && snippet(`${origin}/#${name}`, "Copy the address"),
    h(
      "details",
      // Where people talk already, it does not stand in their way.
      { open: !room.log.ranges.some(({ entries }) => entries.some((entry) => entry.kind === "message")) },
      h("summary", {}, "Post from a shell, a script or a server"),
      snippet(curl, "Copy the commands"),
      h("p", { class: "meta" }, "All of it: ", h("a", { href: "/docs", target: "_blank", rel: "noopener" }, "the HTTP API"), "."),
    ),
    h("p", { class: "meta by-keys" }, "Outside of the text, ", h("kbd", {}, "?"), " shows the keys."),
  );
}

export function noChannel(app: App): HTMLElement {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, "No channel yet"),
    h("p", {}, "Join one of those that there are, or make your own."),
    h("div", { class: "buttons" }, h("button", { type: "button", class: "primary", on: { click: () => browseChannels(app) } }, "Browse channels"), h("button", { type: "button", class: "secondary", on: { click: () => createChannel(app) } }, "Make a channel")),
  );
}

/** A channel that cannot be shown: lost, unknown, or just not reached. `texts`: what was written there and not sent. */
export function noAccess(
  app: App,
  name: string,
  { problem, retry, texts = [] }: { problem: string; retry?: () => void; texts?: readonly string[] },
): HTMLElement {
  return h(
    "div",
    { class: "empty" },
    h("h2", {}, `#${name} cannot be shown`),
    h("p", { role: "status" }, problem),
    texts.length > 0 && h("p", {}, "You had written there, and it was not sent:"),
    texts.length > 0 && snippet(texts.join("\n\n"), "Copy what you had written"),
    h("div", { class: "buttons" }, retry !== undefined && h("button", { type: "button", class: "primary", on: { click: retry } }, "Try again"), h("button", { type: "button", class: "secondary", on: { click: () => browseChannels(app) } }, "Browse channels")),
  );
}

function snippet(text: string, copy: string): HTMLElement {
  const code = h("pre", { tabindex: 0, aria: { label: text.split("\n")[0] ?? "" } }, h("code", {}, text));
  const box = h("div", { class: "snippet" });
  fill(box, [code]);
  // Only a secure page may write to the clipboard; elsewhere the text can be marked by hand.
  if (navigator.clipboard !== undefined) {
    box.append(iconButton(ICONS.copy, copy, () => void navigator.clipboard.writeText(text).then(() => note("Copied."), () => note("Mark it and copy it by hand: the browser refused."))));
  }
  return box;
}
