// About one channel: topic, members, inviting, and for its owners what it is.
import type { Member, Posting, Role, Visibility } from "@hubbub/client";
import type { App } from "./app";
import { channelName } from "./channels";
import { choice, field, openDialog, workForm } from "./dialog";
import { h, iconButton, ICONS } from "./dom";
import { hueOf } from "./hue";
import type { Room } from "./room";
import { error as toastError, note } from "./toasts";
import { explain, plural } from "./words";

export function channelDetails(app: App, room: Room): void {
  const info = room.info;
  if (info === undefined) return;
  const dialog = openDialog(`#${info.name}`, { class: "details" });
  const mayInvite = info.role === "owner" || info.role === "moderator";
  dialog.body.append(
    h("p", { class: "meta" }, `${info.visibility === "private" ? "Private" : "Public"}${info.archived ? ", archived" : ""} · made ${new Date(info.createdAt).toLocaleDateString()} · ${plural(info.memberCount, "member")}`),
  );
  if (info.role !== "owner" && info.topic !== "") dialog.body.append(h("p", { dir: "auto" }, info.topic));
  if (mayInvite) dialog.body.append(inviteForm(room, () => members.load()));
  const members = memberList(app, room);
  dialog.body.append(members.element);
  if (info.role === "owner") dialog.body.append(settings(app, room, dialog.close));
  const end = h("div", { class: "dialog-end" });
  if (info.role !== undefined) {
    end.append(button("Leave this channel", "danger", async () => {
      await room.handle.leave();
      dialog.close();
      if (room.info !== undefined) room.info = { ...room.info, role: undefined };
      await app.rooms.load();
      app.draw();
    }));
  } else {
    end.append(button("Join this channel", "primary", async () => {
      await app.join(info.name);
      dialog.close();
    }));
  }
  dialog.body.append(end);
}

export function inviteForm(room: Room, invited: () => void): HTMLElement {
  const name = h("input", { name: "user", required: true, maxlength: 64, autocomplete: "off", autocapitalize: "none", spellcheck: "false", placeholder: "user name" });
  const form = workForm(
    [field("Invite somebody", name, "By the name they sign in with. They must have been here once.")],
    "Invite",
    async () => {
      const users = await room.names.hubbub.findUsers(name.value.trim().toLowerCase());
      if (users.length === 0) throw new Error("nobody");
      for (const user of users) {
        await room.handle.setMember(user.id);
        room.names.learn(user.id, user.name);
      }
      note(`${name.value.trim()} is a member of #${room.channel} now.`);
      name.value = "";
      name.focus();
      invited();
    },
    (error) => (error instanceof Error && error.message === "nobody" ? "Nobody of this name has been here yet." : explain(error)),
  );
  form.classList.add("invite");
  return form;
}

const ROLES: Readonly<Record<Role, string>> = { member: "member", moderator: "moderator", owner: "owner" };

function memberList(app: App, room: Room): { element: HTMLElement; load: () => void } {
  const list = h("ul", { class: "member-list" });
  const more = h("button", { type: "button", class: "secondary", hidden: true }, "More");
  const problem = h("p", { class: "problem", role: "alert" });
  const mine = room.info?.role;
  let next: string | undefined;

  function row(member: Member): HTMLElement {
    const name = h("span", { class: "member-name", dir: "auto" }, member.name || `user ${member.userId}`);
    name.style.setProperty("color", `var(--hue-${hueOf(member.userId)})`);
    const line = h("li", {}, name);
    if (mine === "owner" && member.userId !== app.user.id) {
      const select = h("select", { aria: { label: `Role of ${member.name}` } });
      for (const role of Object.keys(ROLES) as Role[]) {
        const option = h("option", { value: role }, ROLES[role]);
        option.selected = role === member.role;
        select.append(option);
      }
      select.addEventListener("change", () => {
        room.handle.setMember(member.userId, select.value as Role).catch((error: unknown) => {
          select.value = member.role ?? "member";
          toastError(explain(error));
        });
      });
      line.append(select);
    } else if (member.role !== "member" || member.userId === app.user.id) {
      line.append(h("span", { class: "meta" }, [member.userId === app.user.id ? "you" : "", member.role === "member" ? "" : (member.role ?? "")].filter(Boolean).join(", ")));
    }
    const mayRemove = mine === "owner" || (mine === "moderator" && member.role === "member");
    if (mayRemove && member.userId !== app.user.id) {
      line.append(iconButton(ICONS.close, `Remove ${member.name}`, () => {
        room.handle.removeMember(member.userId).then(() => line.remove(), (error: unknown) => toastError(explain(error)));
      }));
    }
    return line;
  }

  async function load(anew: boolean): Promise<void> {
    try {
      const page = await room.handle.members({ limit: 100, after: anew ? undefined : next });
      if (anew) list.replaceChildren();
      list.append(...page.members.map(row));
      next = page.next || undefined;
      more.hidden = next === undefined;
      problem.textContent = "";
    } catch (error) {
      problem.textContent = explain(error);
    }
  }

  more.addEventListener("click", () => void load(false));
  void load(true);
  return { element: h("section", {}, h("h3", {}, "Members"), list, more, problem), load: () => void load(true) };
}

function settings(app: App, room: Room, close: () => void): HTMLElement {
  const info = room.info as NonNullable<Room["info"]>;
  const name = h("input", { name: "name", value: info.name, required: true, maxlength: 64, autocomplete: "off", autocapitalize: "none", spellcheck: "false" });
  const topic = h("input", { name: "topic", value: info.topic, maxlength: 512, autocomplete: "off", dir: "auto" });
  const visibility = choice<Visibility>("Who can find it", "visibility", [["public", "Everybody"], ["private", "Only members"]], info.visibility);
  const posting = choice<Posting>("Who writes here", "posting", [["everyone", "Everybody who can read"], ["members", "Members"], ["moderators", "Moderators"]], info.posting);
  const form = workForm(
    [field("Name", name), field("Topic", topic), visibility.element, posting.element],
    "Save",
    async () => {
      const to = channelName(name.value);
      const changed = await app.hubbub.updateChannel(info.name, {
        ...(to === info.name ? {} : { name: to }),
        ...(topic.value.trim() === info.topic ? {} : { topic: topic.value.trim() }),
        ...(visibility.value() === info.visibility ? {} : { visibility: visibility.value() }),
        ...(posting.value() === info.posting ? {} : { posting: posting.value() }),
      });
      app.rooms.take(changed);
      close();
    },
    explain,
  );
  form.append(button(info.archived ? "Open it again" : "Archive it: no more messages", "secondary", async () => {
    app.rooms.take(await app.hubbub.updateChannel(info.name, { archived: !info.archived }));
    close();
  }));
  return h("details", { class: "settings" }, h("summary", {}, "Settings"), form);
}

function button(text: string, cls: string, work: () => Promise<void>): HTMLButtonElement {
  const element = h("button", { type: "button", class: cls }, text);
  element.addEventListener("click", () => {
    work().catch((error: unknown) => toastError(explain(error)));
  });
  return element;
}
