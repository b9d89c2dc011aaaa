/** The page's frame: where one is, how the services do, and the page itself. */
import { useState } from "preact/hooks";
import { canAct } from "./api/token";
import { address, go, type PageName, PAGES, route } from "./lib/route";
import { shortcuts, useShortcut } from "./lib/shortcuts";
import { HealthPage } from "./pages/health/health_page";
import { JobsPage } from "./pages/jobs/jobs_page";
import { LoaderPage } from "./pages/loader/loader_page";
import { ModelsPage } from "./pages/models/models_page";
import { Dialog } from "./ui/dialog";
import { Notices } from "./ui/notices";

const TITLES: Readonly<Record<PageName, string>> = {
  models: "Models",
  jobs: "Installs and downloads",
  loader: "Loader",
  health: "Health",
};

export function App() {
  const [help, setHelp] = useState(false);
  useShortcut("?", "Show these keys", () => setHelp(true));
  useShortcut("1", "Models", () => go("models"));
  useShortcut("2", "Installs and downloads", () => go("jobs"));
  useShortcut("3", "Loader", () => go("loader"));
  useShortcut("4", "Health", () => go("health"));
  const { page } = route.value;

  return (
    <>
      <a class="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById("main")?.focus())}>
        Skip to the page
      </a>
      <header class="top">
        <h1 class="brand">modelkeep</h1>
        <nav aria-label="Pages">
          {PAGES.map((name) => (
            <a key={name} href={address(name)} aria-current={name === page ? "page" : undefined}>
              {TITLES[name]}
            </a>
          ))}
        </nav>
        {!canAct() && (
          <span class="tag" title="Open the address that `modelkeep up` prints to change things.">
            view only
          </span>
        )}
        <button type="button" class="quiet" aria-label="Keys" onClick={() => setHelp(true)}>
          ?
        </button>
      </header>
      <main id="main" tabIndex={-1}>
        <Page name={page} />
      </main>
      <Notices />
      {help && <KeysDialog onClose={() => setHelp(false)} />}
    </>
  );
}

function Page({ name }: { name: PageName }) {
  switch (name) {
    case "models":
      return <ModelsPage />;
    case "jobs":
      return <JobsPage />;
    case "loader":
      return <LoaderPage />;
    case "health":
      return <HealthPage />;
  }
}

function KeysDialog({ onClose }: { onClose: () => void }) {
  return (
    <Dialog title="Keys" onClose={onClose}>
      <dl class="keys">
        {[...shortcuts.value].reverse().map(({ key, does }) => (
          <div key={`${key} ${does}`}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{does}</dd>
          </div>
        ))}
        <div>
          <dt>
            <kbd>↑</kbd> <kbd>↓</kbd>
          </dt>
          <dd>From row to row of a list</dd>
        </div>
      </dl>
      {!canAct() && (
        <p class="hint">
          This page may look and change nothing: it was opened without a token. <code>modelkeep up</code> prints the address
          with one.
        </p>
      )}
    </Dialog>
  );
}
