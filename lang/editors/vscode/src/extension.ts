/**
 * Starts `segc lsp` and hands it the `.seg` files. Everything about the language is known there;
 * here are only the process, its setting, what is said when it cannot be started,
 * and the command behind its code lenses.
 */
import {
  type ExtensionContext,
  ProcessExecution,
  Task,
  TaskScope,
  commands,
  tasks,
  window,
  workspace,
} from "vscode";
import {
  LanguageClient,
  type LanguageClientOptions,
  type ServerOptions,
} from "vscode-languageclient/node";

let client: LanguageClient | undefined;

/** Called by the editor when the first `.seg` file is opened. */
export async function activate(context: ExtensionContext): Promise<void> {
  context.subscriptions.push(
    commands.registerCommand("seg.restart", restart),
    commands.registerCommand("seg.runTest", runTest),
    workspace.onDidChangeConfiguration(async (change) => {
      if (change.affectsConfiguration("seg.path")) await restart();
    }),
  );
  await start();
}

/** Called by the editor when it ends. */
export async function deactivate(): Promise<void> {
  const running = client;
  client = undefined;
  // A server that never started cannot be stopped, and there is nobody left to tell.
  if (running?.isRunning()) await running.stop();
}

async function restart(): Promise<void> {
  await deactivate();
  await start();
}

/** The program that the setting names. */
function segc(): string {
  return workspace.getConfiguration("seg").get<string>("path", "segc");
}

/**
 * Runs the tests of the package, or of the file without one, at `path`.
 * A task, since its terminal stays open when `segc` has ended, and no shell has to understand what a path may hold.
 */
async function runTest(path: string, title: string): Promise<void> {
  const run = new ProcessExecution(segc(), ["test", path]);
  const kind = { type: "seg", path };
  await tasks.executeTask(new Task(kind, TaskScope.Workspace, `test ${title}`, "seg", run));
}

async function start(): Promise<void> {
  const command = segc();
  const server: ServerOptions = { command, args: ["lsp"] };
  const options: LanguageClientOptions = {
    documentSelector: [
      { scheme: "file", language: "seg" },
      { scheme: "untitled", language: "seg" },
    ],
    synchronize: { fileEvents: workspace.createFileSystemWatcher("**/{*.seg,seg.toml,seg.lock}") },
  };
  client = new LanguageClient("seg", "Seg", server, options);
  try {
    await client.start();
  } catch (error) {
    client = undefined;
    const reason = error instanceof Error ? error.message : String(error);
    const choice = await window.showErrorMessage(
      `\`${command} lsp\` does not start (${reason}). Colours work without it.`,
      "Set seg.path",
    );
    if (choice !== undefined) {
      await commands.executeCommand("workbench.action.openSettings", "seg.path");
    }
  }
}
