// Who is in the channel at this moment, where the sidebar does not show it.
import type { App } from "./app";
import { openDialog } from "./dialog";
import { fill, h } from "./dom";
import { hueOf } from "./hue";
import type { Room } from "./room";
import { plural } from "./words";

export function peopleHere(app: App, room: Room): void {
  const { userCount, connectionCount, userIds } = room.presence();
  const { body } = openDialog("Here now", { class: "people-dialog" });
  body.append(h("p", { class: "meta" }, `${plural(userCount, "person", "people")} in #${room.channel}, on ${plural(connectionCount, "connection")}.`));
  if (userIds === undefined) {
    body.append(h("p", {}, "That is too many to name each of them."));
    return;
  }
  const rows = userIds
    .map((id) => ({ id, name: app.names.of(id) || `user ${id}` }))
    .sort((one, other) => one.name.localeCompare(other.name))
    .map(({ id, name }) => {
      const row = h("li", {}, h("span", { class: "here-dot", aria: { hidden: true } }), h("span", { class: "person", dir: "auto" }, id === app.user.id ? `${name} (you)` : name));
      row.style.setProperty("--hue", `var(--hue-${hueOf(id)})`);
      return row;
    });
  const list = h("ul", { class: "people" });
  fill(list, rows);
  body.append(list);
}
