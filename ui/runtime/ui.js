// The browser's half of a page: it shows what the server rendered, keeps what the user's
// hands are on, and sends what the user does. The protocol is told in
// docs/decisions/0002-wire.md, who owns which state in 0003-tab-state.md. What has a matter of its
// own is in morph.js, scroll.js and echo.js, which run before this.
(() => {
  'use strict';
  const page = JSON.parse(document.querySelector('meta[name=jitney]')?.content || 'null');
  const root = document.getElementById('jitney-root');
  if (!page || !root) return;
  const html = document.documentElement;
  const base = new URL('.', document.currentScript.src).href; // of /_ui/, also behind a prefix
  const random = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), b => b.toString(16).padStart(2, '0')).join('');
  const least = 250, most = 8000; // ms between two attempts
  const jitter = ms => ms * (0.5 + Math.random() / 2);
  const pause = ms => new Promise(done => {
    nudge = done;
    setTimeout(done, ms);
  });
  let nudge = () => {}; // ends a pause early

  // The key proves that the tab is this document's: a duplicated tab runs this line again,
  // a document from the back/forward cache doesn't. The secret makes our actions ours.
  const key = random(), secret = random();
  let {tab, shape} = page;

  // ---- Signals: the browser owns what the user changed. A revision counts those changes.

  const signals = new Map(); // id -> {v, rev}
  const told = new Map(); // id -> the highest rev that the server has answered to
  let composing = null; // the field in which an input method is at work

  const fields = id => root.querySelectorAll(`[data-bind="${CSS.escape(id)}"]`);
  const emptied = v => typeof v === 'boolean' ? false : '';

  // change is a change by the user's hand.
  function change(id, v, from) {
    const s = signals.get(id);
    if (!s || s.v === v) return;
    s.v = v;
    s.rev++;
    show(id, from);
  }

  // receive takes what the server set, unless the user has changed it since the server looked.
  function receive(all) {
    for (const [id, [v, rev]] of Object.entries(all || {})) {
      const s = signals.get(id);
      if (s && s.rev > rev) continue;
      signals.set(id, {v, rev});
      show(id);
    }
  }

  const snapshot = () => Object.fromEntries(Array.from(signals, ([id, s]) => [id, [s.v, s.rev]]));

  function show(id, except) {
    for (const el of fields(id)) if (el !== except) write(el, signals.get(id).v);
  }

  function write(el, v) {
    if (el === composing) return;
    if (el.type === 'checkbox') el.checked = Boolean(v);
    else if (el.type === 'radio') el.checked = el.value === String(v);
    else if (el.value !== String(v)) {
      const caret = el === document.activeElement && el.selectionStart !== el.value.length ? el.selectionStart : null;
      el.value = v;
      if (typeof caret === 'number') el.setSelectionRange(caret, caret); // writing moved it to the end
    }
    shown.set(el, el.value);
  }

  function read(el) {
    const s = signals.get(el.dataset.bind);
    if (!s || el.type === 'radio' && !el.checked) return;
    let v = el.type === 'checkbox' ? el.checked : el.value;
    if (typeof s.v === 'number' && v !== '' && Number.isFinite(Number(v))) v = Number(v);
    shown.set(el, el.value);
    change(el.dataset.bind, v, el); // the field itself isn't rewritten: "1." is on its way to 1.5
  }

  // Some things fill in a field without an event: extensions, the browser after a reload.
  const shown = new WeakMap(); // field -> the value that it had when we last looked
  function readSilent() {
    for (const el of root.querySelectorAll('input[data-bind], textarea[data-bind]')) {
      if (shown.has(el) && shown.get(el) !== el.value && el !== composing) read(el);
    }
  }

  // New fields show their signals: the view may have been rendered before the user typed.
  const bound = new WeakMap();
  function adoptFields() {
    for (const el of root.querySelectorAll('[data-bind]')) {
      const s = signals.get(el.dataset.bind);
      if (!s || bound.get(el) === el.dataset.bind && el.nodeName !== 'SELECT') continue;
      bound.set(el, el.dataset.bind);
      write(el, s.v);
    }
  }

  // ---- Events: one listener for each type; what an element does stands in its attributes.

  const timers = new WeakMap(); // element -> {type: timer}

  function trigger(type, from) {
    const attr = `data-on-${type}`, el = from.closest?.(`[${attr}]`);
    if (!el || !root.contains(el)) return null;
    const go = () => act(el, el.getAttribute(attr), type);
    const waiting = timers.get(el) ?? {};
    clearTimeout(waiting[type]);
    if (el.dataset.debounce) timers.set(el, Object.assign(waiting, {[type]: setTimeout(go, Number(el.dataset.debounce))}));
    else go();
    return el;
  }

  function act(el, name, type) {
    if (!name || !el.isConnected) return; // removed while it was debounced
    readSilent();
    for (const [id, v] of Object.entries(JSON.parse(el.dataset.set || '{}'))) change(id, v);
    const last = queue.at(-1);
    if (type === 'input' && last?.type === type && last.name === name && !last.first) {
      last.signals = snapshot(); // not sent yet: the newest of such is enough
      return;
    }
    const a = {n: ++number, name, type, once: `${secret}-${++made}`, signals: snapshot(), taken: {}, at: Date.now(), first: 0, tries: 0};
    // A field is emptied here and now: a fast typist's next line would otherwise begin with this one.
    for (const id of (el.dataset.clear || '').split(' ')) {
      if (!signals.has(id)) continue;
      a.taken[id] = signals.get(id).v;
      change(id, emptied(a.taken[id]));
    }
    echo.begin(el, a);
    enqueue(a);
  }

  function enqueue(a) {
    queue.push(a);
    pending();
    pump();
  }

  // resend makes a new action of one that was refused, as if its user had typed it again.
  function resend(a) {
    const now = Object.keys(a.taken).map(id => [id, signals.get(id).v]);
    const put = ([id, v]) => Object.assign(signals.get(id), {v, rev: signals.get(id).rev + 1}); // the field isn't touched
    Object.entries(a.taken).forEach(put);
    const b = {...a, n: ++number, once: `${secret}-${++made}`, signals: snapshot(), at: Date.now(), first: 0, tries: 0};
    now.forEach(put);
    enqueue(b);
    return b;
  }

  // takeBack puts what an action took out of fields before what is in them now.
  function takeBack(a) {
    for (const [id, v] of Object.entries(a.taken)) {
      change(id, [v, signals.get(id).v].filter(Boolean).join(' '));
      fields(id)[0]?.focus();
    }
  }

  const on = (type, listener) => document.addEventListener(type, listener, true);
  on('click', ev => {
    const el = ev.target.closest?.('[data-on-click]');
    if (!el || el.disabled) return;
    // A link with an action is still a link for a click that opens a new tab.
    if (el.nodeName === 'A' && (ev.ctrlKey || ev.metaKey || ev.shiftKey)) return;
    if (trigger('click', el) && (el.nodeName === 'A' || el.type === 'submit')) ev.preventDefault();
  });
  on('submit', ev => {
    if (trigger('submit', ev.target)) ev.preventDefault();
  });
  on('input', ev => {
    if (ev.target.dataset?.bind) read(ev.target);
    if (!ev.isComposing) trigger('input', ev.target); // what is being composed isn't said yet
  });
  on('change', ev => {
    if (ev.target.dataset?.bind) read(ev.target);
    trigger('change', ev.target);
  });
  on('compositionstart', ev => {
    composing = ev.target;
  });
  on('compositionend', ev => {
    composing = null;
    if (ev.target.dataset?.bind) read(ev.target);
    trigger('input', ev.target);
    fresh = true; // what the composition held back
    later();
  });

  // ---- Actions: numbered, one at a time, in order, sent again until answered.

  const queue = []; // {n, name, once, signals, taken, at, first, tries}
  const tooOld = 100e3; // ms; the server knows what it has done for two minutes
  let number = 0, made = 0, sending = null, held = 0, opening = false;

  function post(where, word, body, more) {
    return fetch(where, {
      method: 'POST',
      headers: {'Content-Type': 'application/json', 'X-Jitney': word},
      body: JSON.stringify(body),
      signal: AbortSignal.timeout?.(20e3), // a proxy may take a request and never answer
      ...more,
    });
  }

  // What the server has heard needn't be said again, and must not: it may have set it since.
  const news = all => Object.fromEntries(Object.entries(all).filter(([id, [, rev]]) => rev > (told.get(id) ?? 0)));
  const heardOf = all => Object.entries(all).forEach(([id, [, rev]]) => told.set(id, Math.max(rev, told.get(id) ?? 0)));
  const wire = a => ({n: a.n, act: a.name, once: a.once, signals: news(a.signals)});

  async function pump() {
    const a = queue[0];
    // While the server is away nothing is sent, so that its age doesn't run.
    if (!a || sending || held || opening || html.dataset.ui === 'lost') return;
    if (a.first && Date.now() - a.first > tooOld) {
      settle(a, 'No answer came. It may have been sent, or not.');
      return;
    }
    a.first ||= Date.now();
    const to = tab, controller = sending = new AbortController();
    const timeout = setTimeout(() => controller.abort(), 20e3);
    let refused = false, wait = 0, answer = {};
    try {
      const r = await post(base + 'act', 'act', {tab, key, ...wire(a)}, {signal: controller.signal});
      refused = r.status === 413;
      wait = Number(r.headers.get('Retry-After')) * 1000;
      answer = await r.json();
    } catch {
      // No connection, or a proxy's page: ask again.
    }
    clearTimeout(timeout);
    if (sending === controller) sending = null;
    if (tab !== to || queue[0] !== a) return retry(); // it was answered on the stream, or goes to a new tab
    const ours = answer && answer.tab === tab && answer.n === a.n;
    if (refused) return settle(a, ours && answer.error || 'This is too large to be sent.');
    if (ours && answer.status === 'gone') return openAnew();
    if (ours && answer.status === 'done') {
      heardOf(a.signals);
      return settle(a, answer.error);
    }
    if (ours && answer.status === 'running') wait = Math.min(2000 * 1.5 ** a.tries, most) / 1.5;
    held = setTimeout(retry, wait ? wait * (1 + Math.random()) : jitter(Math.min(least * 2 ** a.tries, most)));
    a.tries++;
  }

  function retry() {
    clearTimeout(held);
    held = 0;
    pump();
  }

  // settle ends the action at the head of the queue.
  function settle(a, error) {
    if (queue[0] !== a) return;
    queue.shift();
    pending();
    if (!error) {
      echo.accepted(a);
      // What was wrong with the actions before has been put right. What else was said stays, and
      // what was said after the user did this.
      for (const box of [...alerts.children]) if (box.until < a.at) box.remove();
    } else if (echo.refused(a)) {
      complain(error, Date.now());
    } else {
      const left = [];
      for (const [id, v] of Object.entries(a.taken)) {
        if (signals.get(id).v === emptied(v)) change(id, v); // back into the field, nobody has touched it
        else if (v) left.push(v);
      }
      complain([error, ...left].join('\n'), left.length ? Infinity : Date.now()); // the text is nowhere else
    }
    retry();
  }

  function pending() {
    if (queue.length) html.dataset.uiPending = queue.length;
    else delete html.dataset.uiPending;
    if (status.firstChild && html.dataset.ui === 'lost') announce();
  }

  // ---- The stream: what the server says.

  let text = null, version = page.v || 0; // the view as the server sent it; a document starts without
  let fresh = false, title = '', focus = '', pushed = {}, rendering = 0;
  let unfit = false; // the whole view was asked for and hasn't come yet

  function take(ev) {
    if (ev.tab !== tab) return; // said to a tab that we were
    if (ev.gone) return openAnew();
    if (ev.done) {
      if (queue[0]?.n !== ev.done) return;
      heardOf(queue[0].signals);
      return settle(queue[0], ev.error);
    }
    if (ev.v === undefined) return ev.error && complain(ev.error);
    if (ev.html !== undefined) {
      text = ev.html;
      unfit = false;
    } else if (unfit) return; // it was under way already, and is no reason to ask again
    else if (ev.base !== version) return again();
    else if (ev.edits?.length) {
      const next = text === null ? null : splice(text, ev.edits);
      if (next === null || next.length !== ev.len || sum(next) !== ev.sum) return again();
      text = next;
    }
    version = ev.v;
    fresh ||= ev.html !== undefined || ev.edits?.length > 0;
    Object.assign(pushed, ev.signals);
    title = ev.title || title;
    focus = ev.focus || focus;
    later();
  }

  function again() {
    unfit = true;
    version = 0;
    text = null;
    send({resync: true});
  }

  function splice(old, edits) {
    let out = '', from = 0;
    for (const [at, remove, insert] of edits) {
      out += old.slice(from, at) + insert;
      from = at + remove;
    }
    return out + old.slice(from);
  }

  // FNV-1a over the UTF-16 units, low byte first.
  function sum(s) {
    let h = 0x811c9dc5;
    for (let i = 0; i < s.length; i++) {
      const unit = s.charCodeAt(i);
      h = Math.imul(h ^ unit & 255, 0x01000193);
      h = Math.imul(h ^ unit >> 8, 0x01000193);
    }
    return h >>> 0;
  }

  // Frames are taken in at once and shown soon: a tab that is slower than its stream shows
  // the newest state instead of working off what has piled up.
  function later() {
    rendering ||= setTimeout(render);
  }

  function render() {
    rendering = 0;
    if (fresh && text !== null) {
      const template = document.createElement('template');
      template.innerHTML = text; // scripts that come this way never run
      localize(template.content);
      echo.adopt(template.content);
      scroll.around(() => morph(root, template.content));
      echo.arrived();
    }
    fresh = false;
    receive(pushed);
    pushed = {};
    adoptFields();
    if (title) document.title = title;
    if (focus) document.getElementById(focus)?.focus();
    title = focus = '';
  }

  // localize writes times as the browser's user reads them, before they are shown.
  const clock = new Intl.DateTimeFormat([], {timeStyle: 'short'}), day = new Intl.DateTimeFormat([], {dateStyle: 'medium'});

  function localize(within) {
    for (const el of within.querySelectorAll('time[data-local]')) {
      const at = new Date(el.dateTime);
      if (isNaN(at)) continue;
      const today = day.format(at) === day.format();
      el.textContent = (today ? '' : `${day.format(at)}, `) + clock.format(at);
      el.title = `${day.format(at)}, ${clock.format(at)}`;
    }
  }

  const scroll = jitneyScroll({root, on});
  const echo = jitneyEcho({root, on, toEnd: scroll.toEnd, localize, resend, takeBack});
  const {morph, noteOpen} = jitneyMorph({root, composing: () => composing, guest: echo.guest});

  // ---- A new tab for this document: the server has restarted, or we slept for too long.

  let opened = 0, openings = 0;

  async function openAnew() {
    if (opening) return;
    opening = true;
    sending?.abort();
    sending = null;
    send({leave: true});
    state('lost'); // seen only if it takes a second
    // A server that calls each new tab gone (no cookies, a balancer that isn't sticky) is asked less and less.
    openings = Date.now() - opened < 10e3 ? openings + 1 : 0;
    if (openings > 1) await pause(jitter(Math.min(least * 2 ** openings, most)));
    for (let wait = least; ; wait = Math.min(wait * 2, most)) {
      // The state as it was when the first unanswered action was made: the others bring theirs.
      const was = queue[0]?.signals || {}, all = snapshot();
      for (const id in was) if (was[id][1] < all[id][1]) all[id] = was[id];
      let answer, r;
      try {
        r = await post(location.pathname + location.search, 'open', {key, shape, signals: all});
        answer = JSON.parse(await r.text());
      } catch {
        // No connection, or not from a jitney server.
      }
      if (answer?.tab) {
        told.clear();
        heardOf(all);
        return adopt(answer);
      }
      // Somebody else answered (a login), or the page isn't there any more: the browser shall show it.
      if (answer?.reload || r && r.status < 500 && ![408, 429].includes(r.status)) return reload();
      await pause(jitter(wait));
    }
  }

  function adopt(answer) {
    tab = answer.tab;
    shape = answer.shape || shape; // a page that takes long has neither a shape nor a view yet
    number = 0;
    for (const a of queue) {
      a.n = ++number;
      a.tries = 0;
    }
    text = answer.html;
    unfit = false;
    version = answer.v || 0;
    fresh = text !== '';
    pushed = answer.signals || {};
    title = answer.title;
    opening = false;
    opened = Date.now();
    join();
    render();
    text = null; // as with a document: the first frame brings it
  }

  // reload is for a page that has changed too much to be morphed. What was typed, and what
  // was not sent, is put back into the fields.
  async function reload() {
    if (Date.now() - (stash('jitney')?.at || 0) < 10e3) await pause(most); // it has just been reloaded for the same reason
    stash('jitney', {at: Date.now(), href: location.href, texts: written(queue), unsent: queue.length + echo.unsent().length});
    queue.length = 0;
    reloading = true;
    location.reload();
  }
  let reloading = false;

  // written returns what the user has written into fields, with what of it is in unsent actions: [selector, text].
  function written(actions) {
    const texts = [];
    for (const el of root.querySelectorAll('textarea[data-bind], input[data-bind]:not([type=checkbox], [type=radio], [type=hidden], [type=password])')) {
      const unsent = [...echo.unsent(), ...actions].map(a => a.taken[el.dataset.bind]).filter(Boolean);
      if (unsent.length || signals.get(el.dataset.bind)?.rev > 0) texts.push([name(el), [...unsent, el.value].filter(Boolean).join(' ')]);
    }
    return texts;
  }

  // stash sets what the browser keeps for this tab, if there is something to set, and returns it.
  function stash(as, what) {
    try {
      if (what) sessionStorage.setItem(as, JSON.stringify(what));
      return JSON.parse(sessionStorage.getItem(as));
    } catch {
      return null; // a browser may be told to store nothing
    }
  }

  const name = el => el.id ? `#${CSS.escape(el.id)}` : el.name ? `[name="${CSS.escape(el.name)}"]` : `[data-bind="${CSS.escape(el.dataset.bind)}"]`;

  function restore() {
    const kept = stash('jitney');
    if (kept?.texts && kept.href === location.href) {
      stash('jitney', {at: kept.at});
      fill(kept.texts);
      if (kept.unsent) complain('This page has been updated. What had not been sent is in its field again.');
    } else {
      fill(left().find(([id]) => id === visit)?.[1] || []);
    }
    leave([]);
  }

  function fill(texts) {
    for (const [selector, v] of texts) {
      const el = root.querySelector(selector);
      if (el?.dataset.bind && signals.has(el.dataset.bind)) change(el.dataset.bind, v);
    }
  }

  // The back/forward cache brings a page back as it was left. It promises nothing, though, and a page that
  // mustn't be stored comes back with empty fields then: so we keep their texts for this entry of the history.
  const visit = history.state?.jitney || random();
  if (!history.state?.jitney) history.replaceState({...history.state, jitney: visit}, '');
  const left = () => stash('jitney left') || [];
  const leave = texts => stash('jitney left', [...left().filter(([id]) => id !== visit), ...texts.length ? [[visit, texts]] : []].slice(-20));

  // ---- The connection: a shared worker holds the stream, or the page itself does.

  let port = null, w = '', s = 0, generation = 0, heard = Date.now(), asked = 0;
  let release = () => {};
  const protocol = performance.getEntriesByType('navigation')[0]?.nextHopProtocol || '';
  const multiplexed = /^h[23]/.test(protocol);
  const mustDirect = multiplexed || !window.SharedWorker;
  let direct = mustDirect;

  const send = message => port?.postMessage(message);
  const join = () => {
    // Six connections are all that a browser has for a host: a hidden tab shall not hold one.
    if (direct && !multiplexed && document.hidden) return;
    if (!opening) send({join: {tab, key, v: version}});
  };

  async function connect() {
    release();
    port?.close();
    heard = Date.now();
    asked = 0;
    if (direct) {
      try {
        if (!window.jitneyConnect) await load(page.worker);
      } catch {
        state('lost'); // the server has gone away since it served the page
        direct = mustDirect;
        setTimeout(connect, jitter(2000));
        return;
      }
      const channel = new MessageChannel();
      window.jitneyConnect(channel.port2);
      port = channel.port1;
    } else {
      const fallBack = () => {
        direct = true;
        return connect();
      };
      try {
        const worker = new SharedWorker(page.worker, {name: `jitney ${generation}`});
        worker.onerror = fallBack;
        port = worker.port;
      } catch {
        return fallBack(); // a browser that is told to store nothing allows none
      }
    }
    port.onmessage = hear;
    hello();
  }

  const load = src => new Promise((done, failed) => {
    const script = document.createElement('script');
    Object.assign(script, {src, onload: done, onerror: failed});
    script.addEventListener('error', () => script.remove());
    document.head.append(script);
  });

  // hello is said while the lock is held: the worker waits for the same lock, and would
  // think a tab dead that says hello before.
  function hello() {
    const greet = lock => {
      send({hello: {base, lock, name: direct ? key : ''}});
      join();
    };
    release();
    if (direct || !navigator.locks) return greet(''); // no locks on plain HTTP but for localhost
    const lock = `jitney ${random()}`;
    navigator.locks.request(lock, () => new Promise(done => {
      release = done;
      greet(lock);
    })).catch(() => greet(''));
  }

  function hear({data: m}) {
    heard = Date.now();
    asked = 0;
    if (m.trouble) console.error(`jitney: ${m.trouble}`);
    if (m.alive) send({here: true});
    if (m.left) setTimeout(join, jitter(most)); // by a worker that we have given up, and that lives
    if (m.event) take(m.event);
    if (m.state === 'lost' && !opening) state('lost');
    if (m.state === 'open') {
      ({w, s} = m);
      if (!opening) state('open');
    }
  }

  // A worker may hang or be killed, and nobody is told.
  setInterval(() => {
    if (Date.now() - heard < 40e3 || direct && document.hidden) return;
    if (asked && Date.now() - asked > 5000) {
      generation++;
      connect();
    } else if (!asked) {
      asked = Date.now();
      send({wake: true});
    }
  }, 5000);

  const wake = () => {
    nudge();
    if (direct && !multiplexed) document.hidden ? send({leave: true}) : join();
    send({wake: true});
  };
  document.addEventListener('visibilitychange', wake);
  addEventListener('online', wake);

  // Pages in the back/forward cache keep their connections, and six of them are all there are.
  addEventListener('pagehide', () => {
    readSilent();
    send({leave: true});
    release();
    const acts = opening ? [] : queue.map(wire);
    while (JSON.stringify(acts).length > 60e3) acts.pop(); // more than 64 KB isn't sent by a page that is left
    if (!reloading) leave(written(queue.slice(acts.length)));
    acts.forEach((_, i) => queue[i].first ||= Date.now());
    post(base + 'bye', 'bye', {tab, key, w, s, acts}, {keepalive: true}).catch(() => {});
  });
  addEventListener('pageshow', ev => {
    if (!ev.persisted) return;
    for (const id of signals.keys()) show(id);
    hello();
  });

  // ---- What the user is told.

  const status = document.getElementById('jitney-status') ?? document.createElement('div');
  status.id = 'jitney-status';
  status.setAttribute('role', 'status');
  const alerts = document.createElement('div');
  alerts.id = 'jitney-alerts';
  const notices = document.createElement('div');
  notices.id = 'jitney-notices';
  notices.append(status, alerts);
  document.body.append(notices);
  let banner = 0;

  function state(now) {
    if (html.dataset.ui === now) return;
    html.dataset.ui = now;
    clearTimeout(banner);
    if (now === 'lost') banner = setTimeout(announce, 1000);
    else if (status.firstChild) {
      announce();
      banner = setTimeout(() => status.replaceChildren(), 2500);
    }
    if (now === 'open') retry();
  }

  function announce() {
    const span = document.createElement('span');
    span.textContent = html.dataset.ui === 'open' ? 'Connected again.'
      : 'No connection to the server. Trying again…' + (queue.length ? ' What you did meanwhile is sent then.' : '');
    if (status.textContent !== span.textContent) status.replaceChildren(span);
  }

  // An action that is made after until, and is done, takes the complaint away.
  function complain(what, until = Infinity) {
    const focused = document.activeElement;
    for (const old of [...alerts.children]) if (old.firstChild.textContent === what) old.remove();
    const box = document.createElement('div'), line = document.createElement('p'), button = document.createElement('button');
    box.until = until;
    box.setAttribute('role', 'alert');
    line.textContent = what;
    button.type = 'button';
    button.textContent = 'Dismiss';
    button.onclick = () => {
      box.remove();
      if (focused?.isConnected) focused.focus();
    };
    box.append(line, button);
    alerts.append(box);
    while (alerts.children.length > 3) alerts.firstChild.remove();
  }

  // ---- Begin.

  html.dataset.ui = 'connecting';
  for (const [id, [v, rev]] of Object.entries(page.signals || {})) signals.set(id, {v, rev});
  for (const el of root.querySelectorAll('textarea[data-bind], input[data-bind]:not([type=checkbox], [type=radio])')) {
    if (el.value === el.defaultValue || !signals.has(el.dataset.bind)) continue;
    bound.set(el, el.dataset.bind); // typed before this script ran, or filled in again by the browser
    read(el);
  }
  adoptFields();
  restore();
  noteOpen();
  localize(root);
  scroll.around(() => {});
  connect();
})();
