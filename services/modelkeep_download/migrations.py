"""The tables of DownloadService, version by version."""

from __future__ import annotations

from modelkeep_common.sqlite import Migration, labels

MIGRATIONS = (
    Migration(
        1,
        """
        CREATE TABLE downloads (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            queue TEXT NOT NULL,
            kind TEXT NOT NULL,
            source TEXT NOT NULL,
            destination TEXT NOT NULL,
            destination_is_folder INTEGER NOT NULL,
            filename TEXT NOT NULL,
            root TEXT NOT NULL,
            copy INTEGER NOT NULL,
            expected_sha256 TEXT NOT NULL,
            labels TEXT NOT NULL,
            start INTEGER NOT NULL,
            initial_priority INTEGER NOT NULL,
            initial_preserve_partial INTEGER NOT NULL,
            state TEXT NOT NULL,
            stage TEXT NOT NULL,
            secret TEXT NOT NULL,
            priority INTEGER NOT NULL,
            preserve_partial INTEGER NOT NULL,
            bytes_done INTEGER NOT NULL,
            bytes_total INTEGER,
            staging TEXT NOT NULL,
            validator TEXT NOT NULL,
            final_url TEXT NOT NULL,
            content_type TEXT NOT NULL,
            name TEXT NOT NULL,
            staged_device INTEGER,
            staged_inode INTEGER,
            delivered_path TEXT NOT NULL,
            sha256 TEXT NOT NULL,
            verified INTEGER NOT NULL,
            attempt INTEGER NOT NULL,
            restarts INTEGER NOT NULL,
            changes INTEGER NOT NULL,
            failure TEXT,
            enqueue_order INTEGER NOT NULL,
            job_sequence INTEGER NOT NULL,
            create_time REAL NOT NULL,
            start_time REAL,
            end_time REAL,
            update_time REAL NOT NULL,
            version INTEGER NOT NULL,
            revision INTEGER NOT NULL
        );
        CREATE INDEX downloads_by_queue ON downloads (queue, id);
        CREATE INDEX downloads_by_state ON downloads (state, id);
        CREATE INDEX downloads_by_source ON downloads (source, destination);
        """,
    ),
    Migration(
        2,
        # A real number in SQLite's JSON has 15 digits; printf writes all that tell a moment.
        """
        ALTER TABLE downloads RENAME TO downloads_1;
        DROP INDEX downloads_by_queue;
        DROP INDEX downloads_by_state;
        DROP INDEX downloads_by_source;
        CREATE TABLE downloads (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            queue TEXT NOT NULL,
            source TEXT NOT NULL,
            destination TEXT NOT NULL,
            state TEXT NOT NULL,
            staging TEXT NOT NULL,
            job TEXT NOT NULL
        );
        INSERT INTO sqlite_sequence (name, seq)
            SELECT 'downloads', seq FROM sqlite_sequence WHERE name = 'downloads_1';
        INSERT INTO downloads SELECT id, queue, source, destination, state, staging, json_object(
            'id', id,
            'spec', json_object(
                'queue', queue,
                'kind', kind,
                'source', source,
                'destination', destination,
                'destination_is_folder', json(CASE WHEN destination_is_folder THEN 'true' ELSE 'false' END),
                'filename', filename,
                'root', root,
                'priority', initial_priority,
                'preserve_partial', json(CASE WHEN initial_preserve_partial THEN 'true' ELSE 'false' END),
                'copy', json(CASE WHEN copy THEN 'true' ELSE 'false' END),
                'expected_sha256', expected_sha256,
                'start', json(CASE WHEN start THEN 'true' ELSE 'false' END),
                'labels', json(labels)
            ),
            'state', state,
            'stage', stage,
            'secret', secret,
            'priority', priority,
            'preserve_partial', json(CASE WHEN preserve_partial THEN 'true' ELSE 'false' END),
            'have', json_object('ranges', json(
                CASE WHEN bytes_done > 0 THEN json_array(json_array(0, bytes_done)) ELSE json_array() END
            )),
            'bytes_total', bytes_total,
            'staging', staging,
            'validator', validator,
            'final_url', final_url,
            'content_type', content_type,
            'name', name,
            'staged_inode', json(
                CASE WHEN staged_inode IS NULL THEN 'null' ELSE json_array(staged_device, staged_inode) END
            ),
            'delivered_path', delivered_path,
            'sha256', sha256,
            'verified', json(CASE WHEN verified THEN 'true' ELSE 'false' END),
            'attempt', attempt,
            'restarts', restarts,
            'changes', changes,
            'failure', json(coalesce(failure, 'null')),
            'enqueue_order', enqueue_order,
            'job_sequence', job_sequence,
            'create_time', json(printf('%!.17g', create_time)),
            'start_time', json(
                CASE WHEN start_time IS NULL THEN 'null' ELSE printf('%!.17g', start_time) END
            ),
            'end_time', json(CASE WHEN end_time IS NULL THEN 'null' ELSE printf('%!.17g', end_time) END),
            'update_time', json(printf('%!.17g', update_time)),
            'version', version,
            'revision', revision
        ) FROM downloads_1;
        DROP TABLE downloads_1;
        CREATE INDEX downloads_by_queue ON downloads (queue, id);
        CREATE INDEX downloads_by_state ON downloads (state, id);
        CREATE INDEX downloads_by_source ON downloads (source, destination);
        """,
    ),
    Migration(
        3,
        labels.schema("downloads")
        + """
        INSERT INTO labels (owner, key, value)
            SELECT downloads.id, pair.key, pair.value
            FROM downloads, json_each(downloads.job, '$.spec.labels') pair;
        CREATE INDEX downloads_by_destination ON downloads (destination);
        """,
    ),
    Migration(
        4,
        # Of jobs that have not ended, and whose file's name is known: where that goes.
        """
        DROP INDEX downloads_by_destination;
        ALTER TABLE downloads ADD COLUMN target TEXT NOT NULL DEFAULT '';
        UPDATE downloads SET target = CASE
            WHEN NOT json_extract(job, '$.spec.destination_is_folder') THEN destination
            WHEN json_extract(job, '$.spec.filename') != ''
                THEN rtrim(destination, '/') || '/' || json_extract(job, '$.spec.filename')
            WHEN json_extract(job, '$.name') != ''
                THEN rtrim(destination, '/') || '/' || json_extract(job, '$.name')
            ELSE '' END
        WHERE state NOT IN ('completed', 'error', 'cancelled');
        CREATE INDEX downloads_by_target ON downloads (target) WHERE target != '';
        """,
    ),
    Migration(
        5,
        # What is said of each file of several lies apart: a list of jobs reads none of it.
        """
        ALTER TABLE downloads ADD COLUMN files TEXT NOT NULL DEFAULT '';
        CREATE TABLE targets (
            target TEXT NOT NULL,
            job INTEGER NOT NULL REFERENCES downloads (id) ON DELETE CASCADE,
            PRIMARY KEY (target, job)
        ) WITHOUT ROWID;
        CREATE INDEX targets_by_job ON targets (job);
        INSERT INTO targets (target, job) SELECT target, id FROM downloads WHERE target != '';
        DROP INDEX downloads_by_target;
        ALTER TABLE downloads DROP COLUMN target;
        """,
    ),
    Migration(
        6,
        # Only what a failed job has left is looked for by its source.
        """
        DROP INDEX downloads_by_source;
        CREATE INDEX downloads_left ON downloads (source, destination, id)
            WHERE state = 'error' AND staging != '';
        """,
    ),
)
