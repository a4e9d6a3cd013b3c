// Before somebody is signed in: one form for both, signing in and making an account.
import { field, workForm } from "./dialog";
import { h, fill } from "./dom";
import { Refused, type Session, type SignUp } from "./session";

/** Shows the form in `root` until somebody is in. `said`: why it is shown, if it was not asked for. */
export function entrance(root: HTMLElement, session: Session, known: SignUp | undefined, said: string | undefined, entered: (how: { isNew: boolean }) => void): void {
  let signUp: SignUp = known ?? "open";
  let isNew = false;
  const username = h("input", {
    name: "username", autocomplete: "username", autocapitalize: "none", spellcheck: "false", required: true, maxlength: 32, enterkeyhint: "next",
  });
  const password = h("input", { name: "password", type: "password", required: true, maxlength: 1024, enterkeyhint: "go" });
  const invite = h("input", { name: "invite", autocomplete: "off", spellcheck: "false" });
  const inviteField = field("Invite code", invite);
  const passwordField = field("Password", password);
  const hint = h("p", { class: "hint" }, "8 characters or more. There is no reset by mail here: keep it in a password manager.");
  passwordField.append(hint);
  const heading = h("h1", {});
  const other = h("button", { type: "button", class: "link" });
  const otherLine = h("p", { class: "entrance-other" });

  const form = workForm(
    [field("User name", username), passwordField, inviteField],
    "",
    async () => {
      const name = username.value.trim().toLowerCase();
      if (isNew) await session.makeAccount(name, password.value, invite.value.trim() || undefined);
      await session.signIn(name, password.value);
      entered({ isNew });
    },
    explain,
  );
  const problem = form.querySelector(".problem") as HTMLElement;
  const submit = form.querySelector("button[type=submit]") as HTMLButtonElement;
  problem.textContent = said ?? "";

  function show(): void {
    heading.textContent = isNew ? "Make an account" : "Sign in";
    submit.textContent = isNew ? "Make account" : "Sign in";
    password.setAttribute("autocomplete", isNew ? "new-password" : "current-password");
    hint.hidden = !isNew;
    inviteField.hidden = !(isNew && signUp === "invite");
    invite.required = isNew && signUp === "invite";
    other.textContent = isNew ? "Sign in" : "Make an account";
    fill(otherLine, signUp === "closed" ? ["Accounts are made by whoever runs this server."] : [isNew ? "You have one? " : "New here? ", other]);
  }

  other.addEventListener("click", () => {
    isNew = !isNew;
    problem.textContent = "";
    show();
    username.focus();
  });
  show();
  fill(root, [
    h(
      "main",
      { class: "entrance" },
      h("p", { class: "wordmark" }, "hubbub"),
      heading,
      h("p", { class: "meta" }, `on ${location.host}`),
      form,
      otherLine,
    ),
  ]);
  username.focus();
  if (known !== undefined) return;
  session.describe().then(
    (answer) => {
      signUp = answer.signUp;
      show();
    },
    (error: unknown) => {
      if (problem.textContent === "") problem.textContent = explain(error);
    },
  );
}

function explain(error: unknown): string {
  if (!(error instanceof Refused)) return "Something went wrong on this page. Load it again.";
  const again = error.retryAfterSeconds === undefined ? "" : ` Try again in ${error.retryAfterSeconds} s.`;
  switch (error.code) {
    case "invalid_credentials":
      return "The user name or the password is wrong.";
    case "username_taken":
      return "Somebody has this user name already.";
    case "rate_limited":
      return `Too many tries.${again}`;
    case "forbidden":
      return "No account is made without a good invite code.";
    default:
      return `${error.message}${again}`;
  }
}
