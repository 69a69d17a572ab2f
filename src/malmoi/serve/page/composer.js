// Where a person writes: grows with the text, sends with Enter (never while an input method is still composing a
// syllable), and takes pictures where the model reads them.

import { fill, h, icon, iconButton } from "./dom.js";
import { t } from "./i18n.js";

const PICTURES = ["image/png", "image/jpeg", "image/webp"];
const LARGEST = 6_000_000; // bytes of a picture: with base64's third on top it fits the server's limit
const MOST = 4;

/** The form at the foot of the conversation. `update()` shows the app's state. */
export function composer(app) {
  let pictures = [];
  const field = h("textarea", { id: "message", rows: 1, "aria-label": t("message"), placeholder: t("placeholder"), enterkeyhint: "send" });
  const file = h("input", { type: "file", accept: PICTURES.join(","), multiple: true, class: "visually-hidden", tabindex: "-1", "aria-hidden": "true" });
  const attach = iconButton("picture", t("attach"), () => file.click());
  const strip = h("div", { class: "attached" });
  const send = h("button", { type: "submit", class: "send" });
  const form = h(
    "form",
    { class: "composer", autocomplete: "off" },
    strip,
    h("div", { class: "composer-row" }, attach, file, field, send),
  );

  const grow = () => {
    field.style.setProperty("height", "auto");
    field.style.setProperty("height", `${Math.min(field.scrollHeight, 220)}px`);
  };
  const show = () => {
    const views = pictures.map((url, place) =>
      h(
        "span",
        { class: "thumb" },
        h("img", { src: url, alt: t("picture") }),
        iconButton("close", t("removePicture"), () => {
          pictures = pictures.filter((_, each) => each !== place);
          show();
        }),
      ),
    );
    fill(strip, views);
  };
  const add = async (files) => {
    for (const each of [...files].filter((one) => PICTURES.includes(one.type))) {
      if (each.size > LARGEST) app.say(t("pictureTooLarge"));
      else if (pictures.length < MOST) pictures = [...pictures, await asUrl(each)];
    }
    show();
  };
  const submit = () => {
    const text = field.value.trim();
    if (app.busy || (!text && !pictures.length)) return;
    app.send(text, pictures);
    field.value = "";
    pictures = [];
    show();
    grow();
    update();
  };

  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    submit();
  });
  field.addEventListener("input", () => {
    grow();
    update();
  });
  field.addEventListener("paste", (event) => {
    if (app.model?.reads_images && event.clipboardData.files.length) {
      event.preventDefault();
      add(event.clipboardData.files);
    }
  });
  file.addEventListener("change", () => {
    add(file.files);
    file.value = "";
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (app.busy) app.stop();
    else submit();
  });

  function update() {
    const reads = Boolean(app.model?.reads_images);
    attach.disabled = !reads;
    attach.title = reads ? t("attach") : t("noPictures");
    send.classList.toggle("stop", app.busy);
    const label = app.busy ? t("stop") : t("send");
    send.setAttribute("aria-label", label);
    send.title = label;
    send.disabled = !app.busy && !field.value.trim() && !pictures.length;
    fill(send, icon(app.busy ? "stop" : "send"));
  }
  update();
  return { form, field, update };
}

function asUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
