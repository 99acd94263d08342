"use strict";
const $ = id => document.getElementById(id);
let events;

function enter() {
  events?.close();
  events = new EventSource("events?" + new URLSearchParams({ room: $("room").value, who: $("who").value }));
  events.onmessage = e => {
    const chat = JSON.parse(e.data);
    if (document.activeElement !== $("topic")) $("topic").value = chat.Topic;
    $("lines").replaceChildren(...(chat.Lines ?? []).map(line => {
      const item = document.createElement("li");
      item.textContent = line.Who + ": " + line.Text;
      return item;
    }));
  };
}

async function post(path, field) {
  const body = new URLSearchParams({ room: $("room").value, who: $("who").value, text: $(field).value });
  const answer = await fetch(path, { method: "POST", body }).catch(e => ({ text: async () => String(e) }));
  $("problem").textContent = answer.ok ? "" : await answer.text();
  return answer.ok;
}

$("who").value = sessionStorage.who ??= ["Ann", "Bob", "Cem", "Dora", "Eli"][Math.floor(Math.random() * 5)];
$("who").onchange = () => { sessionStorage.who = $("who").value; enter(); };
$("room").onchange = enter;
$("place").onsubmit = e => e.preventDefault();
$("topics").onsubmit = e => { e.preventDefault(); $("topic").blur(); post("topic", "topic"); };
$("say").onsubmit = async e => {
  e.preventDefault();
  if (await post("say", "text")) $("text").value = "";
};
enter();
