"use strict";
(() => {
  const main = document.querySelector("main");
  const find = (selector, inside = main) => inside.querySelector(selector);
  const form = find("form"), button = find(".go button"), state = find(".answer .state");
  const command = find(".request pre"), result = find(".result"), problem = find(".problem");
  const passed = find(".passed"), raw = find(".raw");
  const fields = [...main.querySelectorAll(".field")];
  const chosen = new Map(fields.map((field) => [field, []]));
  const name = main.dataset.pipeline;
  const streams = "streams" in main.dataset;
  let running = null;

  // ---- what is entered

  class Invalid extends Error {
    constructor(field, message) {
      super(message);
      this.field = field;
    }
  }

  const number = /^-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?$/; // in JSON, of any length

  const entry = (field) => find(".entry, .tick input", field);

  // The value of a field: files, or JSON text; null if it is left out.
  function read(field) {
    const files = chosen.get(field);
    if (files.length) return { files };
    const { kind, initial } = field.dataset, required = "required" in field.dataset;
    const input = entry(field);
    if (kind === "check") {
      const text = String(input.checked);
      return !required && text === initial ? null : { json: text };
    }
    if (!input) return null;
    if (input.validity.badInput) throw new Invalid(field, "not a number");
    const text = kind === "text" ? input.value : input.value.trim();
    if (!required && text === initial) return null;
    if (kind === "text") return { json: JSON.stringify(text) };
    if (!text) return kind === "choice" && required ? { json: "null" } : null;
    if (kind === "file" || kind === "date") return { json: JSON.stringify(text) };
    if (kind === "number") return { json: number.test(text) ? text : String(input.valueAsNumber) };
    if (kind === "json") {
      try {
        JSON.parse(text);
      } catch (error) {
        throw new Invalid(field, "not JSON: " + error.message);
      }
    }
    return { json: text };
  }

  const entries = () =>
    fields.map((field) => [field.dataset.name, read(field)]).filter(([, value]) => value !== null);

  // The text of a value in a form.
  const formText = (json) => (json.startsWith('"') ? JSON.parse(json) : compact(json));
  const compact = (json) => (json.includes("\n") ? JSON.stringify(JSON.parse(json)) : json);

  const object = (values) =>
    "{" + values.map(([key, { json }]) => JSON.stringify(key) + ":" + compact(json)).join(",") + "}";

  function body() {
    const values = entries();
    if (!values.some(([, value]) => value.files)) return object(values);
    const data = new FormData();
    for (const [key, { files, json }] of values)
      if (files) files.forEach((file) => data.append(key, file));
      else data.append(key, formText(json));
    return data;
  }

  // ---- the same for a shell: mlkit.serving.kernel.curl has the rule

  const quoted = (word) =>
    /^[\w@%+=:,./-]+$/.test(word) ? word : "'" + word.replaceAll("'", "'\"'\"'") + "'";

  const examples = { image: "photo.jpg", audio: "sound.wav", video: "clip.mp4" };

  function values() {
    return fields
      .map((field) => {
        let value = null;
        try {
          value = read(field);
        } catch (error) {
          value = { json: "null" };
        }
        const { kind, accept } = field.dataset;
        if (value === null && kind === "file" && "required" in field.dataset)
          value = { files: [{ name: examples[accept.split("/")[0]] || "data.bin" }] };
        return [field.dataset.name, value];
      })
      .filter(([, value]) => value !== null);
  }

  function curl() {
    const path = location.pathname.replace(/\/try\/*$/, "");
    const url = location.origin + (path.endsWith("/" + name) ? path : path + "/" + name);
    const given = values(), lines = [];
    if (streams) lines.push("-N -H 'Accept: text/event-stream'");
    if ("secured" in main.dataset) lines.push('-H "Authorization: Bearer $TOKEN"');
    if (given.some(([, value]) => value.files)) {
      for (const [key, { files }] of given)
        for (const file of files || [])
          lines.push("-F " + quoted(key + "=@" + (/[;,"]/.test(file.name) ? `"${file.name}"` : file.name)));
      for (const [key, { json }] of given)
        if (json) lines.push("--form-string " + quoted(key + "=" + formText(json)));
    } else {
      lines.push("-H 'Content-Type: application/json'", "-d " + quoted(object(given)));
    }
    command.textContent = ["curl -sS", ...lines, quoted(url)].join(" \\\n  ");
  }

  // ---- files

  const size = (count) =>
    count < 1e3 ? count + " bytes" : count < 1e6 ? (count / 1e3).toPrecision(3) + " kB" : (count / 1e6).toPrecision(3) + " MB";

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }

  function picture(file) {
    const tag = { image: "img", audio: "audio", video: "video" }[file.type.split("/")[0]];
    if (!tag) return [];
    const made = element(tag, { src: URL.createObjectURL(file), controls: true, alt: file.name });
    made.addEventListener("error", () => made.remove());
    return [made];
  }

  function show(field) {
    const list = find(".files", field), files = chosen.get(field);
    if (!list) return;
    list.querySelectorAll("[src]").forEach((one) => URL.revokeObjectURL(one.src));
    list.replaceChildren(
      ...files.map((file, index) => {
        const remove = element("button", { type: "button", textContent: "×", title: "remove" });
        remove.setAttribute("aria-label", "remove " + file.name);
        remove.addEventListener("click", () => choose(field, files.toSpliced(index, 1)));
        const label = element("span", { textContent: file.name, title: file.name });
        const line = element("div", { className: "name" }, label, element("small", { textContent: size(file.size) }), remove);
        return element("li", {}, ...picture(file), line);
      }),
    );
    list.hidden = !files.length;
    const drop = find(".drop", field), many = "many" in field.dataset;
    drop.hidden = files.length > 0 && !many;
    if (field.dataset.kind === "file") drop.classList.toggle("small", files.length > 0);
    const instead = entry(field);
    if (instead) instead.hidden = files.length > 0;
  }

  function choose(field, files) {
    chosen.set(field, files);
    clear(field);
    show(field);
    curl();
  }

  function add(field, files) {
    if (!files.length) return;
    choose(field, "many" in field.dataset ? [...chosen.get(field), ...files] : [files[0]]);
  }

  for (const field of fields) {
    const drop = find(".drop", field);
    if (!drop) continue;
    const input = find("input", drop);
    input.addEventListener("change", () => {
      add(field, [...input.files]);
      input.value = "";
    });
    for (const kind of ["dragenter", "dragover"])
      field.addEventListener(kind, (event) => {
        event.preventDefault();
        drop.classList.add("over");
      });
    field.addEventListener("dragleave", () => drop.classList.remove("over"));
    field.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      add(field, [...event.dataTransfer.files]);
    });
  }
  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files], field = fields.find((one) => one.dataset.kind === "file");
    if (field) add(field, files);
  });

  // ---- errors

  function clear(field) {
    field.classList.remove("invalid");
    find(".wrong", field).hidden = true;
    for (const input of field.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  }

  function mark(field, message) {
    const wrong = find(".wrong", field);
    wrong.textContent = wrong.hidden ? message : wrong.textContent + "\n" + message;
    wrong.hidden = false;
    field.classList.add("invalid");
    for (const input of field.querySelectorAll("input, select, textarea")) input.setAttribute("aria-invalid", "true");
  }

  function refuse(document_) {
    const others = [];
    for (const { loc, msg } of document_.errors || []) {
      const field = fields.find((one) => one.dataset.name === loc[1]);
      const place = loc.slice(2).join(".");
      if (field) mark(field, place ? place + ": " + msg : msg);
      else others.push(loc.join(".") + ": " + msg);
    }
    const marked = fields.filter((field) => field.classList.contains("invalid"));
    if (marked.length) find("input, select, textarea", marked[0]).focus();
    const { status, step, title, detail, failure_id: id } = document_;
    if (marked.length) {
      const title = marked.length === 1 ? "One field is not valid" : marked.length + " fields are not valid";
      explain(title, others.join("\n") || "What is wrong stands below " + (marked.length === 1 ? "it." : "them."));
    } else if (status === 401) {
      explain(title, "The link has expired. app.playground() makes a new one.");
    } else if (step) {
      explain(`Step ${step} failed`, detail.replace(/^step '.*?' failed: /, ""), id);
    } else {
      explain(title, String(detail), id);
    }
    report("failed", `failed with ${status}`);
  }

  function explain(title, text, id = "") {
    const [head, line, small] = problem.children;
    head.textContent = title;
    line.textContent = text;
    small.textContent = id && `See app.failures, id ${id}`;
    problem.hidden = false;
  }

  // ---- a request

  const report = (kind, text) => {
    state.className = "state " + kind;
    state.textContent = text;
  };

  const duration = (ms) =>
    ms < 1000 ? `${ms < 9.95 ? ms.toFixed(1) : Math.round(ms)} ms` : `${(ms / 1000).toPrecision(3)} s`;

  function start() {
    fields.forEach(clear);
    find(".empty").hidden = problem.hidden = true;
    result.hidden = passed.hidden = raw.hidden = true;
    result.className = streams ? "result stream" : "result";
    result.replaceChildren();
    find("tbody", passed).replaceChildren();
    find("pre", raw).textContent = "";
    find("summary span", passed).textContent = "";
    form.classList.add("running");
    button.textContent = "Stop";
    report("busy", "running");
  }

  function step({ step, at_ms, text, pictures }) {
    const shown = element("div", { className: "shown" });
    shown.append(...pictures.map((src) => element("img", { src, alt: "" })), element("span", { textContent: text, title: text }));
    const row = element("tr");
    const head = element("th", { textContent: step, scope: "row" });
    row.append(head, element("td", { className: "v" }, shown), element("td", { className: "n", textContent: at_ms < 9.95 ? at_ms.toFixed(1) : Math.round(at_ms) }));
    find("tbody", passed).append(row);
    passed.hidden = false;
  }

  const indented = (json) => {
    try {
      return JSON.stringify(JSON.parse(json), null, 2);
    } catch {
      return json;
    }
  };

  function said(json) {
    raw.hidden = json === undefined;
    if (json !== undefined) find("pre", raw).textContent += (streams ? json : indented(json)) + "\n";
  }

  // An item that is text continues the one before.
  function item({ html, json }) {
    const value = json === undefined ? null : JSON.parse(json);
    if (typeof value === "string") {
      if (!find(".said", result)) result.append(element("p", { className: "said" }));
      find(".said", result).append(value);
    } else {
      result.insertAdjacentHTML("beforeend", html);
    }
    result.hidden = false;
    said(json);
  }

  async function* events(response) {
    const decoder = new TextDecoder();
    let rest = "";
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      rest += decoder.decode(value, { stream: !done });
      const lines = rest.split("\n");
      rest = lines.pop();
      for (const line of lines) yield JSON.parse(line);
      if (done) return;
    }
  }

  async function follow(response, began) {
    let first = 0, ended = false;
    for await (const { event, data } of events(response)) {
      const ms = performance.now() - began;
      if (event === "step") step(data);
      else if (event === "item") {
        first = first || ms;
        item(data);
      } else if (event === "result") {
        result.innerHTML = data.html;
        result.hidden = false;
        said(data.json);
        report("done", "answered in " + duration(ms));
      } else if (event === "end")
        report("done", `${data.items} ${data.items === 1 ? "item" : "items"} in ${duration(ms)}${first ? ", the first after " + duration(first) : ""}`);
      else refuse(data);
      ended = ended || ["result", "end", "problem"].includes(event);
    }
    if (!ended) throw new Error("The answer broke off.");
  }

  async function send() {
    let content;
    fields.forEach(clear);
    try {
      content = body();
    } catch (error) {
      if (!(error instanceof Invalid)) throw error;
      mark(error.field, error.message);
      entry(error.field).focus();
      return;
    }
    start();
    running = new AbortController();
    const began = performance.now();
    const headers = { Accept: "application/x-ndjson" };
    if (typeof content === "string") headers["Content-Type"] = "application/json";
    try {
      const response = await fetch(location.pathname, { method: "POST", headers, body: content, signal: running.signal });
      if (response.ok) await follow(response, began);
      else refuse(await response.json().catch(() => ({ title: response.statusText || "Error", status: response.status, detail: "" })));
    } catch (error) {
      if (error.name === "AbortError") report("idle", "stopped after " + duration(performance.now() - began));
      else {
        report("failed", "no answer");
        explain("No answer", error.message);
      }
    } finally {
      running = null;
      form.classList.remove("running");
      button.textContent = "Run";
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.abort();
    else send();
  });
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      if (!running) send();
    }
  });
  form.addEventListener("input", (event) => {
    const field = event.target.closest(".field");
    if (field) clear(field);
    curl();
  });
  if (navigator.clipboard) {
    const copy = find(".request button");
    copy.hidden = false;
    copy.addEventListener("click", async () => {
      await navigator.clipboard.writeText(command.textContent);
      copy.textContent = "Copied";
      setTimeout(() => (copy.textContent = "Copy"), 1500);
    });
  }
  history.replaceState(null, "", location.pathname);
  curl();
})();
