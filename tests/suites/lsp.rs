//! `segc lsp` as an editor sees it: each feature in a conversation over its streams, then random edits and hostile messages.

use libtest_mimic::{Failed, Trial};
use seg_tests::editor::{
    Editor, InProcess, Process, index_is_sound, random_edits, rename_everything,
};
use seg_tests::{fuzz, harness, tools};
use serde_json::{Value, json};
use std::path::Path;
use tempfile::TempDir;

fn main() {
    let mut trials = vec![
        Trial::test("a_conversation_begins_and_ends", begins_and_ends),
        Trial::test("diagnostics_follow_the_text", diagnostics),
        Trial::test("fixes_are_offered", fixes),
        Trial::test("hover_says_what_a_name_comes_to", hover),
        Trial::test("names_lead_to_their_definitions_and_uses", definitions),
        Trial::test("a_rename_reaches_every_file_or_is_refused", rename),
        Trial::test("completion_knows_the_place", completion),
        Trial::test("completion_imports_what_it_proposes", completion_imports),
        Trial::test("symbols_folding_and_lenses", outline),
        Trial::test("colours_lie_on_the_text", colours),
        Trial::test("documents_get_their_layout", layout),
        Trial::test("columns_are_counted_as_agreed", encodings),
        Trial::test("files_change_on_disk", disk),
        Trial::test("single_documents_work", single),
        Trial::test("the_library_can_be_read", library),
        Trial::test("other_packages_are_read_and_not_written", dependencies),
        Trial::test("parameters_are_names", parameters),
        Trial::test("hostile_messages_end_nothing", hostile),
        Trial::test("a_bug_is_an_internal_error_and_no_end", bug),
        Trial::test("indexes_of_mutants_are_sound", || {
            Ok(["check/ok", "parse/ok"]
                .into_iter()
                .try_for_each(|f| fuzz::mutate(f, index_is_sound))?)
        }),
        Trial::test("every_name_can_have_another", renames),
    ];
    for (example, seed) in [("shop", 1), ("starwars", 2), ("bastion", 3), ("shop", 4)] {
        let title = format!("random_edits_leave_no_stale_diagnostic_{example}_{seed}");
        trials.push(Trial::test(title, move || Ok(random_edits(example, seed, 2_500)?)));
    }
    harness::main(trials).exit();
}

/// A copy of the example `shop`, an editor on it, and the URI of the folder.
fn shop() -> Result<(TempDir, Editor<Process>, String), Failed> {
    let folder = tempfile::tempdir()?;
    tools::copy_folder(&harness::root().join("examples/shop"), folder.path())?;
    let editor = Editor::new(Process::start(folder.path()), json!({}))?;
    let uri = format!("file://{}/", folder.path().display());
    Ok((folder, editor, uri))
}

fn open(editor: &mut Editor<Process>, folder: &Path, path: &str) -> Result<String, Failed> {
    let uri = format!("file://{}/{path}", folder.display());
    editor.open(&uri, &std::fs::read_to_string(folder.join(path))?);
    Ok(uri)
}

/// Ends a conversation in order; nothing but messages came out.
fn end(mut editor: Editor<Process>) -> Result<(), Failed> {
    editor.shut_down()?;
    let (code, rest) = editor.peer.end();
    assert_eq!((code, String::from_utf8_lossy(&rest).as_ref()), (Some(0), ""));
    Ok(())
}

/// The text of a range of a document, which must not span lines beyond it.
fn text_at(text: &str, range: &Value) -> String {
    let offset = |position: &Value| {
        let line = position["line"].as_u64().unwrap_or_default() as usize;
        let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
        let units = position["character"].as_u64().unwrap_or_default() as usize;
        let mut seen = 0;
        let rest = &text[start..];
        let inside = rest.char_indices().find(|(_, c)| {
            let here = seen >= units;
            seen += c.len_utf16();
            here
        });
        start + inside.map_or(rest.len(), |(at, _)| at)
    };
    text[offset(&range["start"])..offset(&range["end"])].to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn words(completion: &Value) -> Vec<&str> {
    list(&completion["items"]).iter().filter_map(|item| item["label"].as_str()).collect()
}

/// `file:range text` of locations, sorted.
fn places(editor: &Editor<Process>, root: &str, locations: &Value) -> Vec<String> {
    let mut found: Vec<String> = list(locations)
        .iter()
        .map(|location| {
            let uri = location["uri"].as_str().unwrap_or_default();
            let path = uri.strip_prefix(root).unwrap_or(uri);
            let line = &location["range"]["start"]["line"];
            let text = editor.texts.get(uri).map(|text| text_at(text, &location["range"]));
            format!("{path}:{line} {}", text.unwrap_or_default())
        })
        .collect();
    found.sort();
    found
}

fn begins_and_ends() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut process = Process::start(folder.path());
    // Before `initialize` nothing else is answered.
    process.send_raw(&framed(r#"{"jsonrpc":"2.0","id":"x","method":"textDocument/hover"}"#));
    assert_eq!(process.read()["error"]["code"], -32002);
    let mut editor = Editor::new(process, json!({}))?;
    let again = editor
        .request("initialize", json!({ "processId": null, "rootUri": null, "capabilities": {} }));
    assert!(again.is_err_and(|e| e.starts_with("-32600")));
    let unknown = editor.request("textDocument/moniker", json!({}));
    assert!(unknown.is_err_and(|e| e.starts_with("-32601")));
    editor.request("shutdown", Value::Null)?;
    let late = editor.request("workspace/symbol", json!({ "query": "" }));
    assert!(late.is_err_and(|e| e.starts_with("-32600")));
    editor.notify("exit", Value::Null);
    assert_eq!(editor.peer.end().0, Some(0));
    // Without `shutdown` the end is no orderly one.
    let mut editor = Editor::new(Process::start(folder.path()), json!({}))?;
    editor.notify("exit", Value::Null);
    assert_eq!(editor.peer.end().0, Some(1));
    let editor = Editor::new(Process::start(folder.path()), json!({}))?;
    assert_eq!(editor.peer.end().0, Some(1));
    Ok(())
}

fn diagnostics() -> Result<(), Failed> {
    let (folder, mut editor, root) = shop()?;
    let uri = open(&mut editor, folder.path(), "apps/shop.seg")?;
    assert_eq!(editor.diagnostics[&uri], Vec::<Value>::new());
    let text = editor.texts[&uri].clone();
    let at = text.find("internet -> web").ok_or("a rule")?;
    editor.edit(&uri, &[(at..at + 8, "intranet".to_owned())]);
    let [found] = editor.diagnostics[&uri].as_slice() else { return Err("one finding".into()) };
    assert_eq!(
        (&found["code"], &found["severity"], &found["source"]),
        (&json!("E0201"), &json!(1), &json!("segc"))
    );
    assert_eq!(text_at(&editor.texts[&uri], &found["range"]), "intranet");
    editor.edit(&uri, &[(at..at + 8, "internet".to_owned())]);
    assert_eq!(editor.diagnostics[&uri], Vec::<Value>::new());
    // What is wrong in one file shows in another that is not open, and says where it began.
    editor.replace(
        &uri,
        &text.replace("group web", "group telnet-hosts = app:*\nlabel env\ngroup web"),
    );
    editor.catch_up()?;
    let elsewhere: Vec<&Value> = editor.diagnostics.values().flatten().collect();
    let [found] = elsewhere.as_slice() else { return Err(format!("{elsewhere:?}").into()) };
    assert_eq!(found["code"], "E0202");
    let related = &found["relatedInformation"][0];
    assert!(related["location"]["uri"].as_str().is_some_and(|u| u.starts_with(&root)), "{found}");
    editor.replace(&uri, &text);
    editor.catch_up()?;
    assert!(editor.diagnostics.values().all(Vec::is_empty));
    end(editor)
}

fn fixes() -> Result<(), Failed> {
    let (folder, mut editor, _) = shop()?;
    let uri = open(&mut editor, folder.path(), "apps/shop.seg")?;
    let at = editor.texts[&uri].find("role:web").ok_or("a label")?;
    editor.edit(&uri, &[(at..at + 8, "role:wep".to_owned())]);
    let range = editor.diagnostics[&uri][0]["range"].clone();
    let params = |range: &Value| {
        let context = json!({ "diagnostics": [] });
        json!({ "textDocument": { "uri": uri }, "range": range, "context": context })
    };
    let actions = editor.request("textDocument/codeAction", params(&range))?;
    let [action] = list(&actions) else { return Err(format!("{actions}").into()) };
    assert_eq!((&action["kind"], &action["isPreferred"]), (&json!("quickfix"), &json!(true)));
    assert_eq!(action["title"], "write `web` (E0207)");
    let edit = &action["edit"]["changes"][&uri][0];
    assert_eq!(
        (text_at(&editor.texts[&uri], &edit["range"]), &edit["newText"]),
        ("wep".to_owned(), &json!("web"))
    );
    let top =
        json!({ "start": { "line": 0, "character": 0 }, "end": { "line": 0, "character": 0 } });
    assert_eq!(editor.request("textDocument/codeAction", params(&top))?, json!([]));
    end(editor)
}

fn hover() -> Result<(), Failed> {
    let (folder, mut editor, _) = shop()?;
    let uri = open(&mut editor, folder.path(), "apps/shop.seg")?;
    let ask = |editor: &mut Editor<Process>, mark: &str, behind| -> Result<String, Failed> {
        let params = editor.at(&uri, mark, behind);
        let answer = editor.request("textDocument/hover", params)?;
        Ok(answer["contents"]["value"].as_str().unwrap_or_default().to_owned())
    };
    let web = ask(&mut editor, "internet -> web", 12)?;
    assert!(web.contains("group web = app:shop & role:web"), "{web}");
    assert!(
        web.contains("= `app:shop & role:web`") && web.contains("1 workload: `shop-web-1`"),
        "{web}"
    );
    let https = ask(&mut editor, "on https", 3)?;
    assert!(
        https.contains("HTTP over TLS, or over QUIC.") && https.contains("from `std/services.seg`"),
        "{https}"
    );
    assert!(https.contains("= `{ tcp/443, udp/443 }`"), "{https}");
    let env = ask(&mut editor, "env:prod", 0)?;
    assert!(
        env.contains("label env = { prod, staging, dev }") && env.contains("Deployment stage."),
        "{env}"
    );
    let prod = ask(&mut editor, "env:prod", 5)?;
    assert!(prod.contains("a value of a closed label"), "{prod}");
    let tcp = ask(&mut editor, "tcp/8080", 1)?;
    assert!(tcp.contains("built in"), "{tcp}");
    assert_eq!(ask(&mut editor, "8080", 1)?, "");
    // A file that does not check, and in part does not parse, is understood as far as it is sound.
    let at = editor.texts[&uri].find("group db").ok_or("a group")?;
    editor.edit(&uri, &[(at..at, "group x = nobody\ngroup y = = =\n".to_owned())]);
    assert_eq!(editor.diagnostics[&uri].len(), 1, "{:?}", editor.diagnostics);
    let web = ask(&mut editor, "internet -> web", 12)?;
    assert!(web.contains("= `app:shop & role:web`"), "{web}");
    end(editor)
}

fn definitions() -> Result<(), Failed> {
    let (folder, mut editor, root) = shop()?;
    let uri = open(&mut editor, folder.path(), "apps/shop.seg")?;
    open(&mut editor, folder.path(), "org/guard.seg")?;
    open(&mut editor, folder.path(), "org/labels.seg")?;
    let go = |editor: &mut Editor<Process>, mark: &str, behind| -> Result<Vec<String>, Failed> {
        let params = editor.at(&uri, mark, behind);
        let answer = editor.request("textDocument/definition", params)?;
        Ok(places(editor, &root, &if answer.is_null() { json!([]) } else { json!([answer]) }))
    };
    assert_eq!(go(&mut editor, "-> db ", 3)?, ["apps/shop.seg:7 db"]);
    assert_eq!(go(&mut editor, "env:prod", 0)?, ["org/labels.seg:3 env"]);
    assert_eq!(go(&mut editor, "quarantine:yes", 11)?, ["org/labels.seg:9 yes"]);
    assert_eq!(go(&mut editor, "by env-separation", 3)?, ["org/guard.seg:10 env-separation"]);
    assert_eq!(go(&mut editor, "import org.labels", 8)?, ["org/labels.seg:0 "]);
    assert_eq!(go(&mut editor, "allow shop-web-1", 6)?, ["apps/shop.seg:18 shop-web-1"]);
    // This editor cannot show the library.
    assert_eq!(go(&mut editor, "on https", 3)?, Vec::<String>::new());
    let mut params = editor.at(&uri, "-> db ", 3);
    params["context"] = json!({ "includeDeclaration": false });
    let found = editor.request("textDocument/references", params.clone())?;
    let uses = places(&editor, &root, &found);
    assert_eq!(uses, ["apps/shop.seg:13 db", "apps/shop.seg:36 db", "apps/shop.seg:37 db"]);
    params["context"] = json!({ "includeDeclaration": true });
    assert_eq!(list(&editor.request("textDocument/references", params)?).len(), 4);
    let mut params = editor.at(&uri, "role:db", 0);
    params["context"] = json!({ "includeDeclaration": true });
    let found = editor.request("textDocument/references", params.clone())?;
    let files: Vec<String> = places(&editor, &root, &found);
    assert!(files.iter().any(|f| f.starts_with("org/labels.seg")), "{files:?}");
    assert!(files.iter().filter(|f| f.starts_with("org/guard.seg")).count() > 2, "{files:?}");
    let shown = editor.request("textDocument/documentHighlight", editor.at(&uri, "-> db ", 3))?;
    assert_eq!(list(&shown).len(), 4);
    end(editor)
}

fn rename() -> Result<(), Failed> {
    let (folder, mut editor, root) = shop()?;
    let uri = open(&mut editor, folder.path(), "apps/shop.seg")?;
    let labels = open(&mut editor, folder.path(), "org/labels.seg")?;
    let guard = open(&mut editor, folder.path(), "org/guard.seg")?;
    let baseline = open(&mut editor, folder.path(), "org/baseline.seg")?;
    let ask = |editor: &mut Editor<Process>, mark: &str, behind, new: &str| {
        let mut params = editor.at(&uri, mark, behind);
        params["newName"] = json!(new);
        editor.request("textDocument/rename", params)
    };
    let prepared = editor.request("textDocument/prepareRename", editor.at(&uri, "env:prod", 0))?;
    assert_eq!(prepared["placeholder"], "env");
    let changed = ask(&mut editor, "env:prod", 0, "stage")?;
    let changes = changed["changes"].as_object().ok_or("changes")?;
    assert_eq!(changes.keys().collect::<Vec<_>>(), [&uri, &baseline, &guard, &labels]);
    for (uri, edits) in changes {
        let text = editor.texts[uri].clone();
        let mut edits: Vec<&Value> = list(edits).iter().collect();
        edits.sort_by_key(|e| {
            std::cmp::Reverse((
                e["range"]["start"]["line"].as_u64(),
                e["range"]["start"]["character"].as_u64(),
            ))
        });
        assert!(edits.iter().all(|edit| text_at(&text, &edit["range"]) == "env"));
        // The last first, so that the others stay where they are.
        for edit in edits {
            let text = editor.texts[uri].clone();
            let line = edit["range"]["start"]["line"].as_u64().unwrap_or_default() as usize;
            let column = edit["range"]["start"]["character"].as_u64().unwrap_or_default() as usize;
            let at = text.split_inclusive('\n').take(line).map(str::len).sum::<usize>() + column;
            editor.edit(uri, &[(at..at + 3, "stage".to_owned())]);
        }
    }
    editor.catch_up()?;
    assert!(editor.diagnostics.values().all(Vec::is_empty), "{:?}", editor.diagnostics);
    for (mark, behind, new, why) in [
        ("internet -> web", 12, "api", "a name"),
        ("internet -> web", 12, "tcp", "built in"),
        ("internet -> web", 12, "allow", "a keyword"),
        ("internet -> web", 12, "two words", "no name"),
        ("internet -> web", 12, "", "no name"),
        ("internet -> web", 12, "x # y", "no name"),
        ("on https", 3, "web-traffic", "the standard library"),
        ("stage:prod", 0, "role", "a label"),
        ("stage:prod", 6, "dev", "a value"),
        ("import org.labels", 8, "x", "rename the file"),
        ("tcp/8080", 1, "x", "built in"),
        ("policy shop", 7, "telemetry", "a block"),
    ] {
        let refused = ask(&mut editor, mark, behind, new);
        assert!(
            refused.as_ref().is_err_and(|e| e.starts_with("-32803") && e.contains(why)),
            "{mark} {new}: {refused:?}"
        );
    }
    assert!(root.starts_with("file://"));
    end(editor)
}

fn completion() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut editor = Editor::new(Process::start(folder.path()), json!({}))?;
    let uri = format!("file://{}/one.seg", folder.path().display());
    let base = "import std.services\nlabel app\nlabel env = { prod, dev }\n## The front.\ngroup web = app:shop\nnet dc = 10.0.0.0/8\nservice db = tcp/5432\nworkload w1 at 10.0.0.1 is app:wiki\npolicy p {\n    allow web -> web\n}\n";
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("|", &["policy", "import", "group", "test"], &["allow", "web", "expect"]),
        ("pol|", &["policy"], &[]),
        (
            "group x = |",
            &["web", "dc", "app:", "any", "self", "managed", "services."],
            &["db", "w1", "tcp", "allow"],
        ),
        ("group x = app:|", &["shop", "wiki"], &["prod", "web"]),
        ("group x = env:|", &["prod", "dev"], &["shop"]),
        ("group x = env:p|", &["prod"], &[]),
        ("group x = env:{ prod, |", &["dev"], &["web"]),
        ("group x = web |", &["except"], &["web"]),
        ("group |", &[], &["web", "any"]),
        ("net x = |", &["dc"], &["web", "app:", "self"]),
        ("service x = |", &["db", "tcp", "icmp"], &["web", "app:", "self"]),
        ("service x = icmp/|", &["echo-request"], &["db"]),
        ("service x = services.|", &["https", "ssh"], &["web"]),
        ("policy q {\n    |", &["allow", "deny", "isolate"], &["policy", "expect"]),
        ("policy q {\n    allow |", &["web", "dc", "app:"], &["db", "w1"]),
        ("policy q {\n    allow web -> |", &["web"], &["db"]),
        ("policy q {\n    allow web -> web |", &["on", "when", "unless", "log"], &["web"]),
        ("policy q {\n    allow web -> web on |", &["db", "tcp", "any"], &["web", "self"]),
        ("policy q {\n    allow web -> web when |", &["same"], &["web"]),
        ("policy q {\n    allow web -> web when same |", &["app", "env"], &["web"]),
        ("policy q {\n    allow web -> web when same app, |", &["env"], &["web"]),
        ("policy q {\n    isolate web |", &["inbound", "outbound"], &["db"]),
        ("policy q for { web } {\n    |", &["allow"], &["web"]),
        ("test \"t\" {\n    |", &["expect"], &["allow"]),
        ("test \"t\" {\n    expect |", &["allow", "deny", "only"], &["web"]),
        ("test \"t\" {\n    expect deny |", &["w1", "web"], &["db"]),
        ("test \"t\" {\n    expect deny web -> w1 by |", &["p"], &["web"]),
        ("import |", &["std.services", "std.nets"], &["one", "web"]),
        ("import std.|", &["nets", "kubernetes"], &["std.nets"]),
        ("import std.nets.{ |", &["internet"], &["https"]),
        ("@|", &["owner", "ticket"], &["web"]),
        ("template t(x: |", &["endpoints", "service"], &["web"]),
        ("# |", &[], &["policy"]),
        ("## |", &[], &["policy"]),
        ("test \"|", &[], &["web", "expect"]),
        ("template t(door: endpoints, port: service) {\n    allow |", &["door", "web"], &["port"]),
        (
            "template t(door: endpoints, port: service) {\n}\npolicy q {\n    use |",
            &["t"],
            &["web"],
        ),
        (
            "template t(door: endpoints, port: service) {\n}\npolicy q {\n    use t(|",
            &["door = ", "port = ", "web"],
            &[],
        ),
    ];
    editor.open(&uri, base);
    for (typed, wanted, unwanted) in cases {
        let text = format!("{base}{}", typed.replace('|', ""));
        editor.replace(&uri, &text);
        let offset = base.len() + typed.find('|').ok_or("a place")?;
        let position = editor.position(&text, offset);
        let params = json!({ "textDocument": { "uri": uri }, "position": position });
        let answer = editor.request("textDocument/completion", params)?;
        let found = words(&answer);
        for word in *wanted {
            assert!(found.contains(word), "{typed}: no {word} in {found:?}");
        }
        for word in *unwanted {
            assert!(!found.contains(word), "{typed}: {word} in {found:?}");
        }
        let mut once = found.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), found.len(), "{typed}: a word twice in {found:?}");
    }
    end(editor)
}

fn completion_imports() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut editor = Editor::new(Process::start(folder.path()), json!({}))?;
    let uri = format!("file://{}/one.seg", folder.path().display());
    for (text, mark, edit) in [
        ("## Top.\nlabel app\nservice s = ", "= ", "import std.services.{ https }\n\n"),
        ("import std.services.{ ssh }\nservice s = ", "s = ", ", https"),
        ("import std.nets\nservice s = ", "s = ", "\nimport std.services.{ https }"),
    ] {
        editor.open(&uri, text);
        let params = editor.at(&uri, mark, mark.len());
        let answer = editor.request("textDocument/completion", params)?;
        let item = list(&answer["items"]).iter().find(|i| i["label"] == "https").ok_or("https")?;
        assert_eq!(item["additionalTextEdits"][0]["newText"], edit, "{text}");
        assert_eq!(item["detail"], "import std.services");
        let at = &item["additionalTextEdits"][0]["range"]["start"];
        let line = at["line"].as_u64().unwrap_or_default() as usize;
        let column = at["character"].as_u64().unwrap_or_default() as usize;
        let place: usize =
            text.split_inclusive('\n').take(line).map(str::len).sum::<usize>() + column;
        let mut done = format!("{text}https\n");
        done.insert_str(place, edit);
        editor.replace(&uri, &done);
        assert_eq!(editor.diagnostics[&uri], Vec::<Value>::new(), "{done}");
    }
    end(editor)
}

fn outline() -> Result<(), Failed> {
    let (folder, mut editor, root) = shop()?;
    let uri = open(&mut editor, folder.path(), "apps/shop.seg")?;
    let text = editor.texts[&uri].clone();
    let document = json!({ "textDocument": { "uri": uri } });
    let symbols = editor.request("textDocument/documentSymbol", document.clone())?;
    let names: Vec<String> = list(&symbols)
        .iter()
        .map(|s| {
            format!(
                "{} {}",
                s["detail"].as_str().unwrap_or_default(),
                s["name"].as_str().unwrap_or_default()
            )
        })
        .collect();
    assert_eq!(names.first().map(String::as_str), Some("group web"));
    assert!(
        names.contains(&"policy shop".to_owned())
            && names.contains(&"test checkout path".to_owned()),
        "{names:?}"
    );
    for symbol in list(&symbols) {
        let name = text_at(&text, &symbol["selectionRange"]);
        assert_eq!(name.trim_matches('"'), symbol["name"].as_str().unwrap_or_default());
        assert!(text_at(&text, &symbol["range"]).contains(&name));
    }
    let found = editor.request("workspace/symbol", json!({ "query": "tlm" }))?;
    let [found] = list(&found) else { return Err(format!("{found}").into()) };
    assert_eq!(
        (&found["name"], &found["location"]["uri"]),
        (&json!("telemetry"), &json!(format!("{root}org/guard.seg")))
    );
    let folds = editor.request("textDocument/foldingRange", document.clone())?;
    let folds: Vec<(u64, u64)> = list(&folds)
        .iter()
        .filter_map(|f| Some((f["startLine"].as_u64()?, f["endLine"].as_u64()?)))
        .collect();
    assert!(folds.contains(&(1, 3)) && folds.contains(&(10, 16)), "{folds:?}");
    let lenses = editor.request("textDocument/codeLens", document)?;
    let titles: Vec<&str> =
        list(&lenses).iter().filter_map(|l| l["command"]["title"].as_str()).collect();
    assert_eq!(titles, ["run test", "6 claims", "run test", "2 claims"]);
    let command = &lenses[0]["command"];
    assert_eq!(
        (&command["command"], &command["arguments"]),
        (&json!("seg.runTest"), &json!([folder.path().display().to_string(), "checkout path"]))
    );
    end(editor)
}

fn colours() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut editor = Editor::new(Process::start(folder.path()), json!({}))?;
    let uri = format!("file://{}/one.seg", folder.path().display());
    let text = "## é 😀 doc\n@owner(\"é\") label app # 😀\ngroup web = app:shop & 10.0.0.1 # x\npolicy p { allow web -> any on tcp/80 }\n";
    editor.open(&uri, text);
    let tokens = editor
        .request("textDocument/semanticTokens/full", json!({ "textDocument": { "uri": uri } }))?;
    let kinds = [
        "keyword",
        "comment",
        "string",
        "number",
        "operator",
        "namespace",
        "type",
        "interface",
        "variable",
        "function",
        "parameter",
        "property",
        "enumMember",
        "class",
        "decorator",
    ];
    let data: Vec<u64> = list(&tokens["data"]).iter().filter_map(Value::as_u64).collect();
    let (mut line, mut column) = (0, 0);
    let mut seen = Vec::new();
    for token in data.chunks(5) {
        column = if token[0] == 0 { column + token[1] } else { token[1] };
        line += token[0];
        let range = json!({ "start": { "line": line, "character": column }, "end": { "line": line, "character": column + token[2] } });
        seen.push(format!("{} {}", kinds[token[3] as usize], text_at(text, &range)));
    }
    assert_eq!(
        seen,
        [
            "comment ## é 😀 doc",
            "decorator owner",
            "string \"é\"",
            "keyword label",
            "property app",
            "comment # 😀",
            "keyword group",
            "type web",
            "property app",
            "enumMember shop",
            "operator &",
            "number 10.0.0.1",
            "comment # x",
            "keyword policy",
            "class p",
            "keyword allow",
            "type web",
            "operator ->",
            "keyword any",
            "keyword on",
            "variable tcp",
            "number 80",
        ]
    );
    end(editor)
}

fn layout() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut editor = Editor::new(Process::start(folder.path()), json!({}))?;
    let uri = format!("file://{}/one.seg", folder.path().display());
    let text = "label   app   # é\ngroup web=app:shop\ngroup broken = = x\n";
    editor.open(&uri, text);
    let options = json!({ "tabSize": 2, "insertSpaces": false });
    let params = json!({ "textDocument": { "uri": uri }, "options": options });
    let edits = editor.request("textDocument/formatting", params.clone())?;
    let [edit] = list(&edits) else { return Err(format!("{edits}").into()) };
    assert_eq!(text_at(text, &edit["range"]), text);
    let new = edit["newText"].as_str().unwrap_or_default();
    assert_eq!(new, seg_lang::format::format(text).text);
    assert!(new.contains("= app:shop\n") && new.contains("group broken = = x\n"), "{new}");
    editor.replace(&uri, new);
    assert_eq!(editor.request("textDocument/formatting", params)?, json!([]));
    end(editor)
}

fn encodings() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let uri = format!("file://{}/one.seg", folder.path().display());
    let text = "label app\r\ngroup a = app:{ \"é😀\", nope } & b\r\n";
    let offered = json!({ "general": { "positionEncodings": ["utf-16", "utf-8"] } });
    for (capabilities, column) in [(json!({}), 32), (offered, 35)] {
        let mut editor = Editor::new(Process::start(folder.path()), capabilities)?;
        editor.open(&uri, text);
        let [found] = editor.diagnostics[&uri].as_slice() else { return Err("one finding".into()) };
        assert_eq!(found["range"]["start"], json!({ "line": 1, "character": column }), "{found}");
        let at = text.find("b\r\n").ok_or("a name")?;
        assert_eq!(editor.position(text, at), found["range"]["start"]);
        // An edit behind the characters reaches the same place on both sides.
        editor.edit(
            &uri,
            &[
                (at..at + 1, "any".to_owned()),
                (text.find('é').ok_or("é")?..at - 12, "x".to_owned()),
            ],
        );
        assert_eq!(editor.diagnostics[&uri], Vec::<Value>::new(), "{}", editor.texts[&uri]);
        end(editor)?;
    }
    Ok(())
}

fn disk() -> Result<(), Failed> {
    let (folder, mut editor, root) = shop()?;
    let uri = open(&mut editor, folder.path(), "apps/shop.seg")?;
    let labels = format!("{root}org/labels.seg");
    let file = folder.path().join("org/labels.seg");
    let sound = std::fs::read_to_string(&file)?;
    std::fs::write(&file, sound.replace("label app", "label application"))?;
    let event = json!({ "changes": [{ "uri": labels, "type": 2 }] });
    let settle = |editor: &mut Editor<Process>| {
        editor.notify("workspace/didChangeWatchedFiles", event.clone());
        editor.catch_up()
    };
    settle(&mut editor)?;
    assert!(!editor.diagnostics[&uri].is_empty());
    std::fs::write(&file, &sound)?;
    settle(&mut editor)?;
    assert!(editor.diagnostics.values().all(Vec::is_empty), "{:?}", editor.diagnostics);
    // A manifest that cannot be read is told where it is.
    let manifest = folder.path().join("seg.toml");
    let good = std::fs::read_to_string(&manifest)?;
    std::fs::write(&manifest, "name = 1")?;
    settle(&mut editor)?;
    assert_eq!(editor.diagnostics[&format!("{root}seg.toml")].len(), 1);
    std::fs::write(&manifest, good)?;
    settle(&mut editor)?;
    assert!(editor.diagnostics.values().all(Vec::is_empty), "{:?}", editor.diagnostics);
    // An open text goes before the file; a closed one does not.
    open(&mut editor, folder.path(), "org/labels.seg")?;
    editor.replace(&labels, "label nothing\n");
    editor.catch_up()?;
    assert!(!editor.diagnostics[&uri].is_empty());
    editor.texts.remove(&labels);
    editor.notify("textDocument/didClose", json!({ "textDocument": { "uri": labels } }));
    editor.catch_up()?;
    assert_eq!(editor.diagnostics[&uri], Vec::<Value>::new());
    end(editor)
}

fn single() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("names.seg"), "label app\ngroup web = app:shop\n")?;
    let mut editor = Editor::new(InProcess::default(), json!({}))?;
    let uri = format!("file://{}/with%20space.seg", folder.path().display());
    editor.open(&uri, "import names\npolicy p { allow names.web -> any }\n");
    assert_eq!(editor.diagnostics[&uri], Vec::<Value>::new());
    editor.open("untitled:Untitled-1", "policy p { allow nobody -> any }");
    assert_eq!(editor.diagnostics["untitled:Untitled-1"].len(), 1);
    let hover = editor.at("untitled:Untitled-1", "p {", 0);
    assert!(editor.request("textDocument/hover", hover)?.is_object());
    // Closing clears what was told.
    editor.texts.remove("untitled:Untitled-1");
    editor.notify(
        "textDocument/didClose",
        json!({ "textDocument": { "uri": "untitled:Untitled-1" } }),
    );
    assert_eq!(editor.diagnostics["untitled:Untitled-1"], Vec::<Value>::new());
    Ok(())
}

fn library() -> Result<(), Failed> {
    let capabilities = json!({ "workspace": { "textDocumentContent": {} } });
    let mut editor = Editor::new(InProcess::default(), capabilities)?;
    let uri = "untitled:a";
    editor.open(uri, "import std.services.{ https }\npolicy p { allow any -> any on https }\n");
    let params = editor.at(uri, "on https", 3);
    let place = editor.request("textDocument/definition", params)?;
    assert_eq!(place["uri"], "seg:/std/services.seg");
    let text = editor.request("workspace/textDocumentContent", json!({ "uri": place["uri"] }))?;
    assert_eq!(text_at(text["text"].as_str().unwrap_or_default(), &place["range"]), "https");
    let unknown =
        editor.request("workspace/textDocumentContent", json!({ "uri": "seg:/std/x.seg" }));
    assert!(unknown.is_err_and(|e| e.starts_with("-32803")));
    Ok(())
}

fn dependencies() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    // The server names files of other packages by their own path, without links on the way.
    let home = folder.path().canonicalize()?;
    for (path, text) in [
        ("lib/seg.toml", "name = \"lib\"\nedition = \"2026\"\n"),
        (
            "lib/nets.seg",
            "## Where people sit.\nnet office = 10.1.0.0/16\nnet _inner = 10.2.0.0/16\n",
        ),
        (
            "app/seg.toml",
            "name = \"app\"\nedition = \"2026\"\n[dependencies]\nlib = { path = \"../lib\" }\n",
        ),
        ("app/main.seg", "import lib.nets.{ office }\npolicy p { allow office -> any }\n"),
    ] {
        let path = home.join(path);
        std::fs::create_dir_all(path.parent().ok_or("a folder")?)?;
        std::fs::write(path, text)?;
    }
    let mut editor = Editor::new(Process::start(&home), json!({}))?;
    let uri = open(&mut editor, &home, "app/main.seg")?;
    assert_eq!(editor.diagnostics[&uri], Vec::<Value>::new());
    let params = editor.at(&uri, "allow office", 6);
    let place = editor.request("textDocument/definition", params.clone())?;
    assert_eq!(place["uri"], format!("file://{}/lib/nets.seg", home.display()));
    let hover = editor.request("textDocument/hover", params.clone())?;
    let text = hover["contents"]["value"].as_str().unwrap_or_default();
    assert!(text.contains("Where people sit.") && text.contains("= `10.1.0.0/16`"), "{text}");
    let mut renamed = params;
    renamed["newName"] = json!("desk");
    let refused = editor.request("textDocument/rename", renamed);
    assert!(refused.as_ref().is_err_and(|e| e.contains("another package")), "{refused:?}");
    let text = "import lib.nets.{ \npolicy p { allow office -> any }\n";
    editor.replace(&uri, text);
    let params = editor.at(&uri, "{ ", 2);
    let names = editor.request("textDocument/completion", params)?;
    assert_eq!(words(&names), ["office"]);
    editor.replace(&uri, "policy p { allow  -> any }\n");
    let params = editor.at(&uri, "allow ", 6);
    let names = editor.request("textDocument/completion", params)?;
    let office = list(&names["items"]).iter().find(|item| item["label"] == "office");
    assert_eq!(office.ok_or("office")?["detail"], "import lib.nets");
    end(editor)
}

fn parameters() -> Result<(), Failed> {
    let mut editor = Editor::new(InProcess::default(), json!({}))?;
    let uri = "untitled:a";
    let text = "label app\ntemplate door(who: endpoints, port: service = tcp/22) {\n    allow who -> app:x on port\n}\npolicy gate {\n    use door(who = app:y)\n}\n";
    editor.open(uri, text);
    assert_eq!(editor.diagnostics[uri], Vec::<Value>::new());
    let params = editor.at(uri, "who ->", 0);
    let place = editor.request("textDocument/definition", params.clone())?;
    assert_eq!(place["range"]["start"], json!({ "line": 1, "character": 14 }));
    let mut renamed = params.clone();
    for (new, refused) in [("port", true), ("tcp", true), ("client", false)] {
        renamed["newName"] = json!(new);
        let answer = editor.request("textDocument/rename", renamed.clone());
        assert_eq!(answer.is_err(), refused, "{new}: {answer:?}");
        if let Ok(answer) = answer {
            assert_eq!(list(&answer["changes"][uri]).len(), 3);
        }
    }
    let hover = editor.request("textDocument/hover", params)?;
    assert!(
        hover["contents"]["value"].as_str().is_some_and(|text| text.contains("who: endpoints"))
    );
    let symbols =
        editor.request("textDocument/documentSymbol", json!({ "textDocument": { "uri": uri } }))?;
    let template =
        list(&symbols).iter().find(|symbol| symbol["name"] == "door").ok_or("a template")?;
    assert_eq!(list(&template["children"]).len(), 2);
    Ok(())
}

fn framed(body: &str) -> Vec<u8> {
    format!("Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn hostile() -> Result<(), Failed> {
    let (folder, mut editor, root) = shop()?;
    for body in [
        "{",
        "",
        "null",
        "[]",
        "7",
        r#"{"jsonrpc":"2.0","id":null,"method":"shutdown"}"#,
        r#"{"id":[],"method":"x"}"#,
        r#"{"jsonrpc":"2.0"}"#,
        "\u{0}\u{1}",
        r#"[{"jsonrpc":"2.0","id":1,"method":"shutdown"}]"#,
    ] {
        editor.peer.send_raw(&framed(body));
        editor.catch_up()?;
    }
    let long =
        [b"Content-Length: 99999999\r\nX: y\r\n\r\n".to_vec(), vec![b'x'; 99_999_999]].concat();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for bytes in [
        b"Content-Length: 2\r\n\r\n\xff\xfe".as_slice(),
        b"noise\r\nContent-Type: x\r\nContent-Length: 1\r\n\r\n{",
        b"\xff\r\nContent-Length: 18446744073709551616\r\n\r\n",
        &long,
        &framed(&deep),
    ] {
        editor.peer.send_raw(bytes);
        editor.catch_up()?;
    }
    // Notifications that make no sense are ignored.
    for (method, params) in [
        (
            "textDocument/didChange",
            json!({ "textDocument": { "uri": "file:///nowhere.seg", "version": 1 }, "contentChanges": [{ "text": "x" }] }),
        ),
        ("textDocument/didChange", json!({})),
        ("textDocument/didClose", json!({ "textDocument": { "uri": "nonsense" } })),
        ("textDocument/didSave", json!(null)),
        ("$/cancelRequest", json!({ "id": 99 })),
        ("unheard/of", json!([])),
    ] {
        let message = json!({ "jsonrpc": "2.0", "method": method, "params": params });
        editor.peer.send_raw(&framed(&message.to_string()));
    }
    let uri = open(&mut editor, folder.path(), "apps/shop.seg")?;
    let far = json!({ "line": u32::MAX, "character": u32::MAX });
    let start = json!({ "line": 0, "character": 0 });
    for uri in [
        uri.as_str(),
        "file:///nowhere.seg",
        "",
        "file://",
        "file:///%00",
        "file:///%ff/..%2f",
        "untitled:",
        "http://x/y.seg",
    ] {
        for method in ["hover", "completion", "definition", "prepareRename", "documentHighlight"] {
            let params = json!({ "textDocument": { "uri": uri }, "position": far });
            editor.request(&format!("textDocument/{method}"), params)?;
        }
        for method in ["documentSymbol", "foldingRange", "codeLens", "semanticTokens/full"] {
            editor.request(
                &format!("textDocument/{method}"),
                json!({ "textDocument": { "uri": uri } }),
            )?;
        }
        for range in [json!({ "start": far, "end": start }), json!({ "start": far, "end": far })] {
            let params = json!({ "textDocument": { "uri": uri }, "range": range, "context": { "diagnostics": [] } });
            editor.request("textDocument/codeAction", params)?;
        }
    }
    let wrong = editor
        .request("textDocument/hover", json!({ "textDocument": { "uri": 5 }, "position": -1 }));
    assert!(wrong.is_err_and(|e| e.starts_with("-32602")));
    // A reversed range means the text between its ends; one out of the text ends with it.
    let change = |range: Value, text: &str| json!({ "textDocument": { "uri": uri, "version": 9 }, "contentChanges": [{ "range": range, "text": text }] });
    editor.texts.insert(uri.clone(), "label app".to_owned());
    let all = change(json!({ "start": far, "end": start }), "label app");
    editor.peer.send_raw(&framed(
        &json!({ "jsonrpc": "2.0", "method": "textDocument/didChange", "params": all }).to_string(),
    ));
    let more = change(json!({ "start": far, "end": far }), "lication");
    editor.peer.send_raw(&framed(
        &json!({ "jsonrpc": "2.0", "method": "textDocument/didChange", "params": more })
            .to_string(),
    ));
    let request = json!({ "jsonrpc": "2.0", "id": "last", "method": "textDocument/documentSymbol", "params": { "textDocument": { "uri": uri } } });
    editor.peer.send_raw(&framed(&request.to_string()));
    let answer = loop {
        let message = editor.peer.read();
        if message["id"] == "last" {
            break message;
        }
    };
    assert_eq!(answer["result"][0]["name"], "application", "{answer}");
    assert!(root.starts_with("file://"));
    // A message that never comes ends with the stream, whatever length it was said to have.
    editor.peer.send_raw(b"Content-Length: 9999999999999999999\r\n\r\n{");
    assert_eq!(editor.peer.end().0, Some(1));
    let mut process = Process::start(folder.path());
    process.send_raw(b"Content-Length: 10\r\n\r\n{");
    assert_eq!(process.end().0, Some(1));
    Ok(())
}

fn bug() -> Result<(), Failed> {
    let mut editor = Editor::new(InProcess::default(), json!({}))?;
    let text = "label app\npolicy p { allow app:x -> nobody }\n";
    editor.open("untitled:a", text);
    let told = editor.diagnostics.clone();
    let answer = editor.peer.0.answer(7.into(), |_| panic!("the bug this test makes"));
    assert_eq!(answer.id, 7.into());
    assert_eq!(answer.response_result.map_err(|error| error.code), Err(-32603));
    editor.replace("untitled:a", text);
    assert_eq!(editor.diagnostics, told);
    editor.shut_down()?;
    Ok(())
}

fn renames() -> Result<(), Failed> {
    let mut renamed = 0;
    for folder in ["check/ok", "run"] {
        let folder = harness::root().join("tests/data").join(folder);
        for entry in std::fs::read_dir(folder)?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "seg") {
                let text = std::fs::read_to_string(&path)?;
                let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
                renamed += rename_everything(&name, &text).map_err(|e| format!("{name}: {e}"))?;
            }
        }
    }
    assert!(renamed > 100, "{renamed} names");
    Ok(())
}
