// The one event stream of a browser. HTTP/1.1 allows six connections to a host, so tabs
// can't have one each: they share this SharedWorker, which reads a single EventSource and
// hands each event to the tab that it is for. Where there is no SharedWorker, or no need
// for one (HTTP/2), ui.js runs the same code inside the page.
//
// A document sends {hello}, {join}, {leave}, {resync}, {wake}, {here}; it is sent
// {state, w, s}, {event}, {left}, {alive} and {trouble}.
(() => {
  'use strict';
  const least = 250, most = 8000; // ms between two attempts
  const silence = 40e3; // the server beats every 15 s
  const docs = new Set(); // {port, tab, key, v, lock, at, behind}; tab is null while it has left
  let base, name; // the address of /_ui/, and our name for the server (w)
  let source = null, count = 0; // the stream, and how many there were (s)
  let timer = 0, due = 0, delay = least, resyncs = 0, since = 0, heard = Date.now();

  const random = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), b => b.toString(16).padStart(2, '0')).join('');
  // A page that has left may be in the back/forward cache, and a message would drive it out.
  const tell = message => docs.forEach(d => d.tab && d.port.postMessage(message));

  // A new list of tabs is a new stream. Nothing is lost between the two: the address
  // holds the version that each tab has.
  function open() {
    clearTimeout(timer);
    timer = 0;
    end();
    const here = [...docs].filter(d => d.tab);
    if (!here.length) return;
    for (const d of here) d.behind = false;
    const url = new URL('stream', base), s = ++count;
    url.search = `w=${name}&s=${s}` + here.map(d => `&t=${d.tab}.${d.key}.${d.v}`).join('');
    const es = source = new EventSource(url);
    heard = Date.now();
    since = 0;
    es.onopen = () => {
      if (es !== source) return;
      heard = since = Date.now();
      tell({state: 'open', w: name, s});
    };
    es.onmessage = ev => {
      if (es !== source) return;
      try {
        take(JSON.parse(ev.data));
      } catch (err) {
        tell({trouble: `stream: ${err}`}); // a worker has no console that anybody reads
      }
    };
    // EventSource would try again by itself, at a fixed pace, and give up for good on a 503.
    es.onerror = () => {
      if (es === source) lost();
    };
  }

  function end() {
    if (source && since && Date.now() - since > 5000) delay = least; // an event that came before the end is no sign of health
    source?.close();
    source = null;
  }

  function lost(ms) {
    end();
    tell({state: 'lost'});
    soon(ms ?? delay * (0.5 + Math.random() / 2));
    delay = Math.min(delay * 2, most);
  }

  // soon opens the stream after ms, unless that is due earlier: a tab that joins isn't held up by another one's trouble.
  function soon(ms) {
    if (timer && due <= Date.now() + ms) return;
    clearTimeout(timer);
    due = Date.now() + ms;
    timer = setTimeout(open, ms);
  }

  function take(ev) {
    heard = Date.now();
    if (ev.later !== undefined) return lost(ev.later * (1 + Math.random() / 2));
    if (ev.hb) return beat(ev.v || {});
    const d = [...docs].find(d => d.tab === ev.tab);
    if (!d || d.behind) return;
    if (ev.left) { // the tab went to another stream; take it back only from an older one
      if (ev.s < count) soon(delay);
      else {
        d.tab = null;
        d.port.postMessage({left: true});
      }
      return;
    }
    if (ev.gone) d.tab = null;
    if (ev.v) d.v = ev.v;
    d.port.postMessage({event: ev});
  }

  function beat(versions) {
    fetch(new URL('seen', base), {
      method: 'POST',
      headers: {'Content-Type': 'application/json', 'X-Jitney': 'seen'},
      body: JSON.stringify({w: name, s: count}),
    }).catch(() => {}); // if it isn't seen, the server ends the stream, and that we do see
    for (const d of docs) {
      if (!d.lock && Date.now() - d.at > 60e3) drop(d);
      else if (d.tab && versions[d.tab] > d.v) behind(d);
    }
    tell({alive: true});
  }

  // Asks for a tab's whole view again. It waits longer each time, since a view that never
  // fits its sum would otherwise be a busy loop.
  function behind(d) {
    if (d.behind) return;
    d.behind = true; // what is still under way to it is of no use
    d.v = 0;
    soon(Math.min(5 * 4 ** resyncs++, most));
    setTimeout(() => resyncs--, 30e3);
  }

  function drop(d) {
    docs.delete(d);
    d.tab = null;
    soon(5);
  }

  function connect(port) {
    const d = {port, tab: null, key: '', v: 0, lock: '', at: 0};
    port.onmessage = ({data: m}) => {
      d.at = Date.now();
      if (m.hello) {
        base = m.hello.base;
        name ??= m.hello.name || random();
        docs.add(d);
        d.lock = m.hello.lock;
        // The document holds this lock while it lives. Being granted it is how a worker
        // learns of a tab that was closed or has crashed: ports don't tell.
        if (d.lock) navigator.locks.request(d.lock, lock => lock.name === d.lock && drop(d));
      }
      if (m.join) {
        docs.add(Object.assign(d, m.join));
        soon(5);
      }
      if (m.leave && d.tab) {
        d.tab = null;
        soon(5);
      }
      if (m.resync) behind(d);
      if (m.wake) {
        port.postMessage({alive: true});
        if (!source) open();
        else listen();
      }
    };
  }

  function listen() {
    if (source && Date.now() - heard > silence) lost(0);
  }
  setInterval(listen, 10e3);

  if ('onconnect' in self) self.onconnect = ev => connect(ev.ports[0]);
  else self.jitneyConnect = connect;
})();
