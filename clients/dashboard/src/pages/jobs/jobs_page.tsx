/** Installs, scans and downloads: what is under way, what waits and why, what has ended. */
import { useState } from "preact/hooks";
import type { ComponentChildren } from "preact";
import { downloads, installs, suite } from "../../api/suite";
import { count } from "../../lib/format";
import { Action } from "../../ui/action";
import { FeedNotice, useFeeds } from "../../ui/feed_notice";
import { ScansSection } from "../scans/scans_section";
import { AddForm } from "./add_form";
import { downloadJob, isOfInstall } from "./download_jobs";
import { installJob } from "./install_jobs";
import { inOrder, type Job } from "./job";
import { JobRow } from "./job_row";

export function JobsPage() {
  useFeeds(installs, downloads);
  const fetched = downloads.items;
  const installJobs = inOrder(
    [...installs.items.values()].map((install) => installJob(install, fetched.get(install.downloadId))),
  );
  const others = [...fetched.values()].filter((download) => !isOfInstall(download));
  return (
    <div class="page">
      <h2 class="title">Installs and downloads</h2>
      <AddForm />
      <JobList title="Installs" jobs={installJobs} empty="No installs. Paste what you want to have above.">
        <FeedNotice feed={installs} service="InstallService" />
        <Action run={() => suite.installs.retryInstall({ allFailed: true })}>Retry all that failed</Action>
        <Action run={() => suite.installs.pruneInstalls({})}>Forget those that ended</Action>
      </JobList>
      <ScansSection />
      <JobList title="Other downloads" jobs={inOrder(others.map(downloadJob))} empty="None.">
        <FeedNotice feed={downloads} service="DownloadService" />
      </JobList>
    </div>
  );
}

interface ListProps {
  readonly title: string;
  readonly jobs: readonly Job[];
  readonly empty: string;
  readonly children: ComponentChildren;
}

/** So many are shown at first, and more by so many. */
const STEP = 150;

function JobList({ title, jobs, empty, children }: ListProps) {
  const [shown, setShown] = useState(STEP);
  const going = jobs.filter(({ group }) => group === "going").length;
  return (
    <section aria-label={title}>
      <div class="section-head">
        <h2>{title}</h2>
        {jobs.length > 0 && (
          <span class="hint" role="status">
            {count(going)} under way, {count(jobs.length)} in all
          </span>
        )}
        {children}
      </div>
      {jobs.length === 0 ? (
        <p class="empty">{empty}</p>
      ) : (
        <ul class="jobs">
          {jobs.slice(0, shown).map((job) => (
            <JobRow key={job.id} job={job} />
          ))}
        </ul>
      )}
      {jobs.length > shown && (
        <button type="button" onClick={() => setShown(shown + STEP)}>
          Show more of the other {count(jobs.length - shown)}
        </button>
      )}
    </section>
  );
}
