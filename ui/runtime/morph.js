// The tree of a page becomes the one that the server has rendered, with as many of its nodes as
// can be kept: what is kept keeps its focus, its caret, its scroll.
'use strict';
self.jitneyMorph = ({root, composing, guest}) => {
  // A node is kept for its key: its id, or the signal that it is bound to.
  const keyOf = el => {
    const bind = el.nodeType === 1 && el.getAttribute('data-bind');
    return el.nodeType === 1 && el.getAttribute('id') || bind && `${bind} ${el.type === 'radio' ? el.value : ''}` || '';
  };
  const keyed = el => el.querySelectorAll('[id], [data-bind]');
  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.nodeName !== 'INPUT' || a.type === b.type);
  const said = new WeakMap(); // <details> or <dialog> -> whether the server wants it open
  const openers = el => el.querySelectorAll('details, dialog');
  const templates = el => el.nodeName === 'TEMPLATE' ? [el] : el.querySelectorAll('template');
  const noteOpen = () => openers(root).forEach(el => said.has(el) || said.set(el, el.open));

  // morph makes the children of top those of content. Those that guest says to be the
  // browser's own stand behind all others, and stay.
  function morph(top, content) {
    const olds = new Map(); // key -> node, of those that live on
    for (const el of keyed(top)) if (!olds.has(keyOf(el))) olds.set(keyOf(el), el);
    const kept = new Map(), holders = new Set(), placed = new Set(), doomed = [];
    for (const el of keyed(content)) {
      const old = olds.get(keyOf(el));
      if (!old || kept.has(keyOf(el)) || !alike(old, el)) continue;
      kept.set(keyOf(el), old);
      for (const start of [old, el]) {
        for (let up = start.parentNode; up && up !== top && !holders.has(up); up = up.parentNode) holders.add(up);
      }
    }
    const foldable = openers(top).length > 0, stocked = templates(content).length > 0;
    const active = document.activeElement, range = active?.selectionStart != null && [active.selectionStart, active.selectionEnd];

    children(top, content);
    for (const node of doomed) if (!placed.has(node)) node.remove();
    if (active !== document.activeElement && active?.isConnected && top.contains(active)) {
      active.focus({preventScroll: true}); // it was moved by a browser without moveBefore
      if (range) active.setSelectionRange(...range);
    }
    noteOpen();

    function children(parent, model) {
      let last = null; // the next place is always found from here: a move deeper down may take any sibling away
      for (const n of [...model.childNodes]) {
        let at = last ? last.nextSibling : parent.firstChild;
        while (at && !guest(at) && keyOf(at) && !kept.has(keyOf(at)) && !holders.has(at)) { // nobody wants it: a dropped row
          const dead = at;
          at = at.nextSibling;
          dead.remove();
        }
        let o = match(parent, at, n);
        if (!o) {
          // With something inside that lives on elsewhere it is filled bit by bit.
          o = holders.has(n) ? n.cloneNode(false) : n;
          parent.insertBefore(o, at);
        } else if (o !== at) {
          move(parent, o, at);
        }
        placed.add(o);
        if (o !== n) update(o, n);
        last = o;
      }
      for (let rest = last ? last.nextSibling : parent.firstChild; rest && !guest(rest); rest = rest.nextSibling) doomed.push(rest);
    }

    function match(parent, at, n) {
      const k = keyOf(n), free = el => el && !placed.has(el) && alike(el, n);
      if (k && kept.has(k) && free(kept.get(k))) return kept.get(k);
      if (!k && holders.has(n)) { // it is the one that holds the same things
        for (const inner of keyed(n)) {
          let up = kept.get(keyOf(inner));
          while (up && up.parentNode !== parent) up = up.parentNode;
          if (free(up) && !keyOf(up)) return up;
        }
      }
      for (let c = at, i = 0; c && !guest(c) && i < 10; c = c.nextSibling, i++) {
        if (free(c) && keyOf(c) === k && !holders.has(c)) return c;
      }
      return null;
    }

    function move(parent, o, at) {
      // What has the focus stays where it is, and the others move around it.
      if (o.parentNode === parent && o.contains(document.activeElement)) {
        const after = o.nextSibling;
        for (let node = at; node && node !== o;) {
          const next = node.nextSibling;
          put(parent, node, after);
          node = next;
        }
      } else {
        put(parent, o, at);
      }
    }

    function put(parent, node, at) {
      if (parent.moveBefore && node.nodeType === 1) parent.moveBefore(node, at);
      else parent.insertBefore(node, at);
    }

    function update(o, n) {
      if (o === composing()) return;
      if (o.nodeType !== 1) {
        if (o.data !== n.data) o.data = n.data;
        return;
      }
      if (said.has(o) && said.get(o) !== n.open) {
        said.set(o, n.open);
        o.open = n.open;
      }
      if (o.isEqualNode(n)) { // which doesn't look into templates
        if (stocked) templates(o).forEach((el, i) => fill(el, templates(n)[i]));
        if (foldable) openers(o).forEach(el => said.set(el, el.open));
        return;
      }
      const own = attributes(o, n);
      if (o.nodeName === 'TEMPLATE') return fill(o, n);
      if (own && o.nodeName === 'TEXTAREA' || o.hasAttribute('data-ignore')) return;
      if (o.nodeName === 'TEXTAREA') {
        if (o.defaultValue !== n.defaultValue) follow(o, 'value', () => o.defaultValue = n.defaultValue, n.defaultValue);
        return;
      }
      children(o, n);
    }

    // fill gives a template what n holds: that is no child of it.
    function fill(o, n) {
      if (o.innerHTML !== n.innerHTML) o.innerHTML = n.innerHTML;
    }

    // attributes makes o's those of n. It returns whether o is a field whose value belongs to the user.
    function attributes(o, n) {
      const own = (o.nodeName === 'OPTION' && o.closest('select') || o).hasAttribute('data-bind');
      const set = a => o.setAttributeNode(a.cloneNode()); // a parser takes names that setAttribute refuses
      const sync = (name, change) => {
        if (name === 'open' && said.has(o)) {
          return; // done already, or the user's doing
        } else if (name === 'value' && o.nodeName === 'INPUT' && !/^(checkbox|radio|hidden|submit|reset|button|image|file)$/.test(o.type)) {
          if (!own) follow(o, 'value', change, n.getAttribute('value') ?? '');
        } else if (name === 'checked' && o.nodeName === 'INPUT') {
          if (!own) follow(o, 'checked', change, n.hasAttribute('checked'));
        } else if (name === 'selected' && o.nodeName === 'OPTION') {
          if (!own) follow(o, 'selected', change, n.hasAttribute('selected'));
        } else {
          change();
        }
      };
      for (const a of [...n.attributes]) if (o.getAttribute(a.name) !== a.value) sync(a.name, () => set(a));
      for (const a of [...o.attributes]) if (!n.hasAttribute(a.name)) sync(a.name, () => o.removeAttribute(a.name));
      return own;
    }

    // follow gives an unbound field its new default, and shows it unless the user is in the field.
    function follow(o, property, change, v) {
      const here = (o.closest('select') ?? o) === document.activeElement, was = o[property];
      change();
      o[property] = here ? was : v;
    }
  }

  return {morph, noteOpen};
};
