// The grammar against the texts of the project: what each kind of word is coloured as, and that nothing is left without.
import assert from "node:assert/strict";
import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { before, test } from "node:test";
import { fileURLToPath } from "node:url";
import oniguruma from "vscode-oniguruma";
import textmate from "vscode-textmate";

const here = dirname(fileURLToPath(import.meta.url));
const project = join(here, "../../../..");
let grammar;

before(async () => {
  const wasm = createRequire(import.meta.url).resolve("vscode-oniguruma/release/onig.wasm");
  await oniguruma.loadWASM(readFileSync(wasm));
  const registry = new textmate.Registry({
    onigLib: Promise.resolve({
      createOnigScanner: (patterns) => new oniguruma.OnigScanner(patterns),
      createOnigString: (text) => new oniguruma.OnigString(text),
    }),
    loadGrammar: () => {
      const path = join(here, "../syntaxes/seg.tmLanguage.json");
      return textmate.parseRawGrammar(readFileSync(path, "utf8"), path);
    },
  });
  grammar = await registry.loadGrammar("source.seg");
});

/** Every piece of a text with the innermost scope it has, blanks left out. */
function coloured(text) {
  let state = textmate.INITIAL;
  const pieces = [];
  for (const line of text.split("\n")) {
    const result = grammar.tokenizeLine(line, state);
    state = result.ruleStack;
    for (const { startIndex, endIndex, scopes } of result.tokens) {
      const piece = line.slice(startIndex, endIndex).trim();
      if (piece !== "") pieces.push({ piece, scope: scopes.at(-1).replace(/\.seg$/, ""), line });
    }
  }
  return pieces;
}

/** The scope of the first piece that reads like this. */
function scopeOf(text, piece) {
  const found = coloured(text).find((p) => p.piece === piece);
  assert.ok(found, `\`${piece}\` is no piece of \`${text}\`: ${JSON.stringify(coloured(text))}`);
  return found.scope;
}

// The list is written by the Rust suite `editors` from the lexer's own.
const keywords = JSON.parse(readFileSync(join(here, "keywords.json"), "utf8"));
const families = /^(?:keyword\.(?:control|operator\.word)|storage|constant\.language|variable\.language)/;

test("every keyword is coloured as one, alone, before a name and before a parenthesis", () => {
  assert.ok(keywords.length > 30);
  for (const keyword of keywords) {
    for (const text of [keyword, `${keyword} x`, `${keyword} (x)`, `x ${keyword} {`]) {
      assert.match(scopeOf(text, keyword), families, `\`${text}\``);
    }
  }
});

test("a word that only holds a keyword is none", () => {
  for (const keyword of keywords) {
    for (const word of [`${keyword}s`, `x-${keyword}`, `${keyword}-x`, `x_${keyword}`]) {
      const scopes = coloured(`{ ${word} }`).map((p) => p.scope);
      assert.ok(!scopes.some((scope) => families.test(scope)), `${word}: ${scopes.join(" ")}`);
    }
    assert.equal(scopeOf(`role:${keyword}`, keyword), "constant.other.label-value");
  }
});

const examples = [
  ["## Web tier.", "## Web tier.", "comment.line.documentation"],
  ["# note", "# note", "comment.line.number-sign"],
  ["### banner", "### banner", "comment.line.number-sign"],
  ["allow a -> b # why", "# why", "comment.line.number-sign"],
  ["label env = { prod }", "env", "entity.name.tag"],
  ["group web = app:shop", "web", "entity.name.type"],
  ["service dns-over-tls = tcp/853", "dns-over-tls", "entity.name.type"],
  ["policy shop for app:shop {", "shop", "entity.name.section"],
  ["expect deny a -> b by env-separation", "env-separation", "entity.name.section"],
  ["import org.labels", "org.labels", "entity.name.namespace"],
  ["app:shop", "app", "entity.name.tag"],
  ["app:shop", "shop", "constant.other.label-value"],
  ["app:*", "*", "constant.language.any-value"],
  ["role:{ web, db }", "role", "entity.name.tag"],
  ["10.0.0.0/8", "10.0.0.0/8", "constant.numeric.address.ipv4"],
  ["10.0.0.9-10.0.0.17", "10.0.0.17", "constant.numeric.address.ipv4"],
  ["::/0", "::/0", "constant.numeric.address.ipv6"],
  ["fd00:20:1::11", "fd00:20:1::11", "constant.numeric.address.ipv6"],
  ["2001:db8::/32", "2001:db8::/32", "constant.numeric.address.ipv6"],
  ["::ffff:10.0.0.1", "::ffff:10.0.0.1", "constant.numeric.address.ipv6"],
  ["tcp/443", "tcp", "support.type.protocol"],
  ["tcp/443", "443", "constant.numeric.port"],
  ["udp/1000-2000", "1000-2000", "constant.numeric.port"],
  ["tcp/{ 80, 443 }", "tcp", "support.type.protocol"],
  ["tcp/{ 80, 443 }", "443", "constant.numeric"],
  ["icmp/echo-request", "echo-request", "constant.other.port"],
  ["icmp/destination-unreachable/fragmentation-needed", "fragmentation-needed", "constant.other.code"],
  ["icmp/3/4", "4", "constant.numeric.code"],
  ["allow a -> b on tcp", "tcp", "support.type.protocol"],
  ["deny unmanaged <-> db", "unmanaged", "support.constant.endpoints"],
  ["a -> b", "->", "keyword.operator.flow"],
  ["a <-> b", "<->", "keyword.operator.flow"],
  ["a ~> b", "~>", "keyword.operator.flow"],
  ["a & b", "&", "keyword.operator.set"],
  ["allow shop-web-1 -> db", "shop-web-1", "variable.other"],
  ['@owner("team-shop")', "owner", "storage.modifier.annotation"],
  ['@owner("team-shop")', "team-shop", "string.quoted.double"],
  ["@since(2026-01-15)", "2026-01-15", "constant.numeric.date"],
  ['test "a \\"quoted\\" title" {', '\\"', "constant.character.escape"],
  ['test "a # b" {', "a # b", "string.quoted.double"],
  ['test "never closed', "never closed", "string.quoted.double"],
  ["use tiers.three-tier(app:shop)", "tiers.three-tier", "entity.name.function"],
  ['on fqdn("example.com")', "fqdn", "support.function"],
];

for (const [text, piece, scope] of examples) {
  test(`\`${text}\`: ${piece} is ${scope}`, () => {
    assert.equal(scopeOf(text, piece), scope);
  });
}

test("a string that is not closed ends with its line", () => {
  assert.equal(scopeOf('test "open\nallow a -> b', "allow"), "keyword.control.verdict");
});

test("what package.json names is there, and its expressions are expressions", () => {
  const read = (path) => JSON.parse(readFileSync(join(here, "..", path), "utf8"));
  const { languages, grammars } = read("package.json").contributes;
  for (const { path, language } of grammars) {
    assert.equal(read(path).scopeName, "source.seg");
    assert.ok(languages.some(({ id }) => id === language));
  }
  const { indentationRules: indent, wordPattern, onEnterRules } = read(languages[0].configuration);
  const increases = new RegExp(indent.increaseIndentPattern);
  for (const line of ["policy a for b {", "    unless {", "net n = {", 'test "a { b" {']) {
    assert.match(line, increases);
  }
  for (const line of ["group g = { a, b }", "# a {", 'test "a {', "}"]) {
    assert.doesNotMatch(line, increases);
  }
  assert.match("    }", new RegExp(indent.decreaseIndentPattern));
  assert.equal("three-tier".match(new RegExp(wordPattern))[0], "three-tier");
  assert.match("## Web tier.", new RegExp(onEnterRules[0].beforeText));
});

function sources(folder) {
  return readdirSync(join(project, folder), { recursive: true })
    .filter((file) => file.endsWith(".seg"))
    .map((file) => join(folder, file))
    .sort();
}

for (const folder of ["stdlib", "examples"]) {
  test(`all of ${folder} is coloured`, () => {
    const files = sources(folder);
    assert.ok(files.length > 2, `${folder} has ${files.length} files`);
    for (const file of files) {
      for (const { piece, scope, line } of coloured(readFileSync(join(project, file), "utf8"))) {
        assert.notEqual(scope, "source", `${file}: \`${piece}\` in \`${line}\``);
        assert.doesNotMatch(scope, /^invalid/, `${file}: \`${line}\``);
        assert.ok(scope !== "variable.other" || !keywords.includes(piece), `${file}: ${line}`);
      }
    }
  });
}
