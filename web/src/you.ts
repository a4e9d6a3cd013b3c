// The user's own corner: theme, keys, and the way out.
import type { App } from "./app";
import { choice, openDialog } from "./dialog";
import { h } from "./dom";
import { openHelp } from "./keys";
import { Refused } from "./session";
import { setTheme, theme, type Theme } from "./theme";

export function openYou(app: App): void {
  const { body, close } = openDialog(app.user.name, { class: "you-dialog" });
  const colours = choice<Theme>("Theme", "theme", [["auto", "As the system"], ["light", "Light"], ["dark", "Dark"]], theme(), setTheme);
  colours.element.classList.add("in-a-row");
  const problem = h("p", { class: "problem", role: "alert" });
  const keys = h("button", { type: "button", class: "secondary" }, "Keys");
  keys.addEventListener("click", () => {
    close();
    openHelp();
  });
  const out = h("button", { type: "button", class: "secondary" }, "Sign out");
  out.addEventListener("click", () => {
    app.session.signOut().then(
      () => {
        close();
        app.leave();
      },
      (error: unknown) => {
        problem.textContent = error instanceof Refused ? `${error.message} You are still signed in.` : "You are still signed in.";
      },
    );
  });
  body.append(colours.element, problem, h("div", { class: "buttons" }, keys, out));
}
