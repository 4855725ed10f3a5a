//! What PostgreSQL's own catalog is asked. All names are qualified or in pg_catalog; nothing here waits for a lock on a
//! table, but for the text of an expression or a predicate of an index.

pub(super) const TABLES: &str = "
    SELECT c.oid, c.relkind AS kind, c.relpersistence = 'p' AS permanent, c.relrowsecurity AS row_security,
           c.relhasrules AS has_rules,
           EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid OR i.inhparent = c.oid AND c.relkind <> 'p') AS inherits
    FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) WITH ORDINALITY AS wanted(schema, name, place)
    LEFT JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.schema
    LEFT JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name AND c.relkind NOT IN ('i', 'I', 'S', 't', 'c')
    ORDER BY wanted.place";

pub(super) const SIZE: &str = "
    SELECT COALESCE(pg_catalog.sum(pg_catalog.pg_table_size(COALESCE(p.relid, o.oid))), 0)::bigint
    FROM pg_catalog.unnest($1::oid[]) AS o(oid) LEFT JOIN LATERAL pg_catalog.pg_partition_tree(o.oid) p ON true";

pub(super) const COLUMNS: &str = "
    SELECT a.attrelid AS table, a.attname::text AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type_name,
           NOT (a.attnotnull OR d.required) AS nullable, a.attidentity = 'a' AS identity_always,
           a.attidentity <> '' AS identity, a.atthasdef OR a.attidentity <> '' OR d.has_default AS has_default,
           b.typcategory AS category, b.typname::text AS base_type,
           CASE WHEN b.typname IN ('varchar', 'bpchar') AND GREATEST(a.atttypmod, d.typmod) > 4
                THEN GREATEST(a.atttypmod, d.typmod) - 4 END AS max_length,
           d.checked OR EXISTS (SELECT FROM pg_catalog.pg_constraint k
                                WHERE k.conrelid = a.attrelid AND k.contype = 'c' AND a.attnum = ANY (k.conkey)) AS checked,
           -- Arrays and composites of types that are not built in hold oids, which are others in another database.
           b.typsend <> 0 AND b.typreceive <> 0 AND CASE WHEN b.oid < 16384 THEN b.typtype <> 'c' AND b.typname !~ '^_?reg'
               ELSE b.typtype = 'e' OR b.typtype = 'b' AND b.typcategory <> 'A' END AS binary_travels,
           t.typname = 'lo' AS large_object
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    CROSS JOIN LATERAL (
        WITH RECURSIVE below AS (
            SELECT t.oid, t.typbasetype AS base, t.typtypmod AS typmod, t.typnotnull AS required, false AS checked,
                   t.typdefault IS NOT NULL AS has_default
            UNION ALL
            SELECT u.oid, u.typbasetype, GREATEST(below.typmod, u.typtypmod), below.required OR u.typnotnull,
                   below.checked OR EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.contypid = below.oid), below.has_default
            FROM below JOIN pg_catalog.pg_type u ON u.oid = below.base)
        SELECT * FROM below WHERE base = 0) AS d
    JOIN pg_catalog.pg_type b ON b.oid = d.oid
    WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    ORDER BY a.attrelid, a.attnum";

// Only indexes that are checked at once, row by row, can be in the way of an UPDATE. Of these a unique one that holds for
// every row can serve as the key.
pub(super) const UNIQUES: &str = "
    SELECT i.indrelid AS table,
           i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) AND (NOT a.attnotnull OR a.attgenerated <> '')) AS is_key,
           n.relname::text AS name, i.indimmediate AS immediate,
           COALESCE(pg_catalog.pg_get_expr(i.indpred, i.indrelid), 'true') AS predicate,
           COALESCE((pg_catalog.to_jsonb(i) ->> 'indnullsnotdistinct')::boolean, false) AS nulls_equal,
           ARRAY(SELECT COALESCE((SELECT pg_catalog.quote_ident(a.attname) FROM pg_catalog.pg_attribute a
                                  WHERE a.attrelid = i.indrelid AND a.attnum = NULLIF(i.indkey[k - 1], 0)),
                                 pg_catalog.pg_get_indexdef(i.indexrelid, k, false))
                        || COALESCE((SELECT pg_catalog.format(' COLLATE %I.%I', n.nspname, l.collname)
                                     FROM pg_catalog.pg_collation l JOIN pg_catalog.pg_namespace n ON n.oid = l.collnamespace
                                     WHERE l.oid = i.indcollation[k - 1]), '')
                 FROM pg_catalog.generate_series(1, i.indnkeyatts) k ORDER BY k) AS parts,
           ARRAY(SELECT pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname)
                 FROM pg_catalog.generate_series(0, i.indnkeyatts - 1) k
                 JOIN pg_catalog.pg_opclass c ON c.oid = i.indclass[k]
                 LEFT JOIN pg_catalog.pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3 AND i.indisunique
                                               AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
                 JOIN pg_catalog.pg_operator o ON o.oid = COALESCE(x.conexclop[k + 1], m.amopopr)
                 JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
                 ORDER BY k) AS operators,
           ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                 WHERE a.attrelid = i.indrelid AND a.attnum > 0
                   AND (a.attnum = ANY (i.indkey) OR EXISTS (
                        SELECT FROM pg_catalog.pg_depend d
                        WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid
                          AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum))
                 ORDER BY pg_catalog.array_position(i.indkey::int2[], a.attnum)) AS columns
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class n ON n.oid = i.indexrelid
    LEFT JOIN pg_catalog.pg_constraint x ON x.conindid = i.indexrelid AND x.contype = 'x'
    WHERE i.indrelid = ANY ($1) AND (i.indisunique OR x.oid IS NOT NULL) AND i.indisvalid
    ORDER BY i.indrelid, i.indimmediate DESC, i.indisprimary DESC, i.indexrelid";

pub(super) const TRIGGERS: &str = "
    WITH RECURSIVE member AS (
        SELECT o.oid AS root, o.oid FROM pg_catalog.unnest($1::oid[]) AS o(oid)
        UNION ALL SELECT m.root, i.inhrelid FROM member m JOIN pg_catalog.pg_inherits i ON i.inhparent = m.oid)
    SELECT member.root AS table, n.nspname::text AS schema, c.relname::text AS relation, t.tgname::text AS name, t.tgenabled = 'A' AS always
    FROM member
    JOIN pg_catalog.pg_trigger t ON t.tgrelid = member.oid
    JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
    ORDER BY 1, 2, 3, 4";

pub(super) const FOREIGN_KEYS: &str = "
    SELECT k.conname::text AS name, k.confdeltype AS on_delete, k.condeferrable AS deferrable, fn.nspname::text AS from_schema, f.relname::text AS from_table,
           tn.nspname::text AS to_schema, t.relname::text AS to_table,
           ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.conkey) WITH ORDINALITY u(n, place)
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY u.place) AS from_columns,
           ARRAY(SELECT a.attname::text FROM pg_catalog.unnest(k.confkey) WITH ORDINALITY u(n, place)
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.n ORDER BY u.place) AS to_columns,
           ARRAY(SELECT pg_catalog.format('OPERATOR(%I.%s)', n.nspname, o.oprname)
                 FROM pg_catalog.unnest(k.conpfeqop) WITH ORDINALITY u(op, place)
                 JOIN pg_catalog.pg_operator o ON o.oid = u.op
                 JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace ORDER BY u.place) AS operators
    FROM pg_catalog.pg_constraint k
    JOIN pg_catalog.pg_class f ON f.oid = k.conrelid JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
    JOIN pg_catalog.pg_class t ON t.oid = k.confrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
    WHERE k.contype = 'f' AND k.conparentid = 0 AND (k.conrelid = ANY ($1) OR k.confrelid = ANY ($1))
    ORDER BY 2, 3, 1";

// By oid: a name can only be looked up by a role that may use its schema.
pub(super) const HAS_PRIVILEGE: &str = "
    SELECT pg_catalog.has_schema_privilege($1::name, n.oid, 'USAGE')
           AND CASE c.relkind WHEN 'S' THEN pg_catalog.has_sequence_privilege($1::name, c.oid, $4)
                              ELSE pg_catalog.has_table_privilege($1::name, c.oid, $4) END
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $2 AND c.relname = $3";

pub(super) const MAY_MAKE_TEMPORARY: &str =
    "SELECT pg_catalog.has_database_privilege($1::name, pg_catalog.current_database(), 'TEMPORARY')";

pub(super) const OWNS: &str = "
    SELECT pg_catalog.pg_has_role($1::name, c.relowner, 'USAGE')
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $2 AND c.relname = $3";

pub(super) const OWNED_SEQUENCES: &str = "
    SELECT d.refobjid AS table, n.nspname::text AS schema, c.relname::text AS name
    FROM pg_catalog.pg_depend d
    JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'S'
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
      AND d.refobjid = ANY ($1) AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
    ORDER BY 2, 3";

// Constraints that hold for new rows only, of the tables, of their partitions, and of the types of their columns.
pub(super) const NOT_VALID: &str = "
    WITH RECURSIVE member AS (
        SELECT o.oid AS root, o.oid FROM pg_catalog.unnest($1::oid[]) AS o(oid)
        UNION ALL SELECT m.root, i.inhrelid FROM member m JOIN pg_catalog.pg_inherits i ON i.inhparent = m.oid),
    typed AS (
        SELECT a.attrelid AS root, a.atttypid AS oid FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = ANY ($1) AND a.attnum > 0 AND NOT a.attisdropped
        UNION SELECT typed.root, t.typbasetype FROM typed JOIN pg_catalog.pg_type t ON t.oid = typed.oid AND t.typbasetype <> 0)
    SELECT DISTINCT found.root AS table, k.conname::text AS name
    FROM (SELECT m.root, k.oid FROM member m JOIN pg_catalog.pg_constraint k ON k.conrelid = m.oid
          UNION SELECT typed.root, k.oid FROM typed JOIN pg_catalog.pg_constraint k ON k.contypid = typed.oid) AS found
    JOIN pg_catalog.pg_constraint k ON k.oid = found.oid
    WHERE NOT k.convalidated ORDER BY 1, 2";

// Tables whose rows PostgreSQL lets nobody update or delete, because it could not tell subscribers which rows they were.
pub(super) const UNREPLICATED: &str = "
    WITH RECURSIVE member AS (
        SELECT o.oid AS root, o.oid FROM pg_catalog.unnest($1::oid[]) AS o(oid)
        UNION ALL SELECT m.root, i.inhrelid FROM member m JOIN pg_catalog.pg_inherits i ON i.inhparent = m.oid)
    SELECT m.root AS table, pg_catalog.min(p.pubname::text) AS publication
    FROM member m
    JOIN pg_catalog.pg_class c ON c.oid = m.oid AND c.relkind = 'r'
    JOIN pg_catalog.pg_publication p ON p.pubupdate OR p.pubdelete
    WHERE EXISTS (
              SELECT FROM pg_catalog.pg_publication_tables s
              JOIN pg_catalog.pg_namespace n ON n.nspname = s.schemaname
              JOIN pg_catalog.pg_class t ON t.relnamespace = n.oid AND t.relname = s.tablename
              WHERE s.pubname = p.pubname
                AND (t.oid = c.oid OR t.oid IN (SELECT a.relid FROM pg_catalog.pg_partition_ancestors(c.oid) AS a(relid))))
      AND c.relreplident <> 'f'
      AND NOT EXISTS (
              SELECT FROM pg_catalog.pg_index i
              WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate
                AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)
    GROUP BY m.root ORDER BY 1";

// CHECK constraints of tables. Those that look at a whole row or at a system column cannot be asked of another table.
pub(super) const CHECKS: &str = "
    SELECT k.conrelid AS table, k.conname::text AS name, pg_catalog.pg_get_expr(k.conbin, k.conrelid) AS expression
    FROM pg_catalog.pg_constraint k
    WHERE k.conrelid = ANY ($1) AND k.contype = 'c' AND COALESCE(1 <= ALL (k.conkey), true)
    ORDER BY 1, 2";

// Foreign keys from or to one partition only.
pub(super) const PARTITION_KEYS: &str = "
    WITH RECURSIVE member AS (
        SELECT o.oid AS root, o.oid FROM pg_catalog.unnest($1::oid[]) AS o(oid)
        UNION ALL SELECT m.root, i.inhrelid FROM member m JOIN pg_catalog.pg_inherits i ON i.inhparent = m.oid)
    SELECT DISTINCT pg_catalog.format('%I of %s', k.conname, k.conrelid::regclass)
    FROM member m JOIN pg_catalog.pg_constraint k ON m.oid IN (k.conrelid, k.confrelid)
    WHERE m.oid <> m.root AND k.contype = 'f' AND k.conparentid = 0
    ORDER BY 1";

// Sessions and prepared transactions that hold more than a reader's lock on tables of the catalog or their partitions.
pub(super) const LOCK_HOLDERS: &str = "
    WITH RECURSIVE member AS (
        SELECT c.oid FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])) AS wanted(schema, name)
        JOIN pg_catalog.pg_namespace n ON n.nspname = wanted.schema
        JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
        UNION ALL SELECT i.inhrelid FROM member m JOIN pg_catalog.pg_inherits i ON i.inhparent = m.oid)
    SELECT DISTINCT pg_catalog.format('%s is held in %s by %s', l.relation::regclass, l.mode,
        CASE WHEN l.pid IS NULL THEN 'a prepared transaction'
             ELSE pg_catalog.format('session %s of %s', l.pid, COALESCE(a.usename, '?')) END)
    FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
    WHERE l.granted AND l.relation IN (SELECT oid FROM member) AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
      AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
      AND l.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    ORDER BY 1 LIMIT 5";
