// Making a channel, and finding one among those that there are.
import { HubbubError, type ChannelInfo } from "@hubbub/client";
import type { App } from "./app";
import { choice, field, openDialog, workForm } from "./dialog";
import { fill, h, icon, ICONS } from "./dom";
import { explain, plural } from "./words";

export function createChannel(app: App, wanted = ""): void {
  const { body, close } = openDialog("Make a channel");
  const name = h("input", { name: "name", value: wanted, required: true, maxlength: 64, autocomplete: "off", autocapitalize: "none", spellcheck: "false", placeholder: "release-notes" });
  const topic = h("input", { name: "topic", maxlength: 512, autocomplete: "off", dir: "auto" });
  const visibility = choice("Who can find it", "visibility", [
    ["public", "Everybody", "anyone here can read and join"],
    ["private", "Only who is invited", "to all others there is no such channel"],
  ] as const, "public");
  body.append(
    workForm(
      [field("Name", name, "Lower case, without spaces."), field("Topic (can be empty)", topic), visibility.element],
      "Make channel",
      async () => {
        const info = await app.hubbub.createChannel({ name: channelName(name.value), topic: topic.value.trim(), visibility: visibility.value() });
        const room = app.rooms.take(info);
        void room.subscribe().catch(() => undefined);
        close();
        app.go(info.name);
      },
      explain,
    ),
  );
  name.focus();
}

/** What people type for a name, as one that the server takes. */
export function channelName(text: string): string {
  return text.trim().replace(/^#/, "").toLowerCase().replace(/\s+/g, "-");
}

export function browseChannels(app: App): void {
  const dialog = openDialog("All channels", { class: "browse-dialog" });
  const filter = h("input", { type: "search", placeholder: "Begins with…", autocapitalize: "none", spellcheck: "false", aria: { label: "Names that begin with" } });
  const list = h("ul", { class: "browse-list" });
  const problem = h("p", { class: "problem", role: "alert" });
  const none = h("p", { class: "meta", hidden: true }, "There is no public channel of such a name.");
  const more = h("button", { type: "button", class: "secondary", hidden: true }, "More");
  let after: string | undefined;
  let turn = 0;

  function row(info: ChannelInfo): HTMLElement {
    const mine = app.rooms.find(info.name)?.isMember === true;
    const go = h("button", { type: "button", class: mine ? "secondary" : "primary", aria: { label: `${mine ? "Go to" : "Join"} ${info.name}` } }, mine ? "Go" : "Join");
    go.addEventListener("click", () => {
      problem.textContent = "";
      if (mine) {
        dialog.close();
        app.go(info.name);
        return;
      }
      app.join(info.name).then(() => dialog.close(), (error: unknown) => {
        problem.textContent = explain(error);
      });
    });
    const look = h("button", { type: "button", class: "link channel-link", title: "Look at it without joining" }, info.name);
    look.addEventListener("click", () => {
      dialog.close();
      app.go(info.name);
    });
    const line = h("div", { class: "browse-name" }, look, h("span", { class: "meta" }, plural(info.memberCount, "member"), info.archived && " · archived"));
    line.prepend(icon(ICONS.hash));
    return h("li", {}, h("div", { class: "browse-text" }, line, info.topic !== "" && h("p", { class: "meta browse-topic", dir: "auto" }, info.topic)), go);
  }

  async function load(anew: boolean): Promise<void> {
    const mine = ++turn;
    try {
      const page = await app.hubbub.listChannels({ prefix: channelName(filter.value), limit: 50, after: anew ? undefined : after });
      if (mine !== turn) return;
      after = page.next || undefined;
      const rows = page.channels.map(row);
      if (anew) fill(list, rows);
      else list.append(...rows);
      more.hidden = after === undefined;
      none.hidden = list.childElementCount > 0;
      problem.textContent = "";
    } catch (error) {
      if (mine === turn) problem.textContent = error instanceof HubbubError && error.code === "bad_request" ? "No name begins like that." : explain(error);
    }
  }

  filter.addEventListener("input", () => void load(true));
  more.addEventListener("click", () => void load(false));
  const make = h("button", { type: "button", class: "link" }, "Make a channel");
  make.addEventListener("click", () => {
    dialog.close();
    createChannel(app, channelName(filter.value));
  });
  dialog.body.append(filter, problem, list, none, more, h("p", { class: "dialog-end" }, "Not there? ", make));
  filter.focus();
  void load(true);
}
