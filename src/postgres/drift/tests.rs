//! What is decided about a column of a file, as a table.

use super::*;

fn column(name: &str, type_name: &str) -> Column {
    Column {
        name: name.into(),
        type_name: type_name.into(),
        nullable: true,
        identity: false,
        identity_always: false,
        has_default: false,
        category: 'U',
        base_type: String::new(),
        max_length: None,
        checked: false,
        binary_travels: true,
    }
}

fn entry(name: &str, type_name: &str) -> ColumnEntry {
    ColumnEntry { name: name.into(), type_name: type_name.into() }
}

#[test]
fn r18_a_type_is_taken_only_where_it_takes_everything_and_writes_it_the_same() {
    const SAME: [bool; 2] = [true, true];
    const TEXT_ONLY: [bool; 2] = [true, false];
    const NEVER: [bool; 2] = [false, false];
    let table = [
        ("smallint", "integer", TEXT_ONLY),
        ("smallint", "bigint", TEXT_ONLY),
        ("integer", "bigint", TEXT_ONLY),
        ("integer", "numeric", TEXT_ONLY),
        ("integer", "numeric(10,0)", NEVER),
        ("integer", "smallint", NEVER),
        ("bigint", "integer", NEVER),
        ("numeric", "integer", NEVER),
        ("integer", "double precision", NEVER),
        ("integer", "text", NEVER),
        ("real", "double precision", NEVER),
        ("double precision", "real", NEVER),
        ("numeric(6,2)", "numeric(8,2)", SAME),
        ("numeric(6,2)", "numeric", SAME),
        ("numeric(6,2)", "numeric(8,3)", NEVER),
        ("numeric(6,2)", "numeric(5,2)", NEVER),
        ("numeric", "numeric(8,2)", NEVER),
        ("numeric(6,-2)", "numeric(7,-2)", SAME),
        ("character varying(10)", "character varying(11)", SAME),
        ("character varying(10)", "character varying(9)", NEVER),
        ("character varying(10)", "character varying", SAME),
        ("character varying(10)", "text", SAME),
        ("character varying", "character varying(10)", NEVER),
        ("text", "character varying", SAME),
        ("text", "character varying(10)", NEVER),
        ("text", "citext", NEVER),
        ("text", "jsonb", NEVER),
        ("character(3)", "character(5)", NEVER),
        ("character(3)", "text", NEVER),
        ("bit varying(4)", "bit varying(5)", SAME),
        ("bit(4)", "bit(5)", NEVER),
        ("timestamp(3) without time zone", "timestamp(6) without time zone", SAME),
        ("timestamp(3) without time zone", "timestamp without time zone", SAME),
        ("timestamp without time zone", "timestamp(3) without time zone", NEVER),
        ("timestamp(3) without time zone", "timestamp(3) with time zone", NEVER),
        ("timestamp(0) with time zone", "timestamp with time zone", SAME),
        ("time(0) without time zone", "time(3) without time zone", SAME),
        ("date", "timestamp without time zone", NEVER),
        ("json", "jsonb", NEVER),
        ("integer[]", "bigint[]", TEXT_ONLY),
        ("character varying(3)[]", "text[]", TEXT_ONLY),
        ("integer[]", "bigint", NEVER),
        ("integer", "bigint[]", NEVER),
        ("zoo.state", "text", NEVER),
        ("zoo.state", "other.state", NEVER),
        ("zoo.\"text\"", "text", NEVER),
        ("character varying(x)", "text", NEVER),
        ("character varying(3", "text", NEVER),
        ("numeric(6,2) numeric(6,2)", "numeric", NEVER),
        ("", "text", NEVER),
    ];
    for (from, to, expected) in table {
        let found = [CopyFormat::Text, CopyFormat::Binary].map(|format| widens(from, to, format));
        assert_eq!(found, expected, "{from} -> {to}");
    }
}

#[test]
fn r06_columns_are_told_by_name_wherever_they_stand() {
    let file = [entry("a", "integer"), entry("b", "text")];
    let present = [column("b", "text"), column("a", "integer")];
    assert!(columns(&file, CopyFormat::Text, &present).unwrap().is_none());
}

#[test]
fn r18_a_column_is_filled_dropped_or_refused_as_the_table_says() {
    let file = [entry("id", "integer"), entry("old", "text"), entry("n", "integer")];
    let present = [column("id", "integer"), column("n", "bigint"), column("new", "text")];
    let drift = columns(&file, CopyFormat::Text, &present).unwrap();
    assert_eq!(drift.filled, [&present[2]]);
    assert_eq!(drift.gone, [&file[1]]);
    assert_eq!(drift.widened, [(&file[2], &present[1])]);
    assert!(matches!(columns(&file, CopyFormat::Binary, &present), Err(Unfit::Retyped(_, column)) if column.name == "n"));

    let required = Column { nullable: false, ..column("new", "text") };
    let found = |new: &Column| columns(&file[..1], CopyFormat::Text, &[column("id", "integer"), new.clone()]).is_ok();
    assert!(!found(&required));
    assert!(found(&Column { has_default: true, ..required.clone() }));
    assert!(found(&Column { nullable: true, ..required }));
}

#[test]
fn r18_a_column_that_comes_twice_and_columns_without_end_are_refused() {
    let twice = [entry("id", "integer"), entry("id", "integer")];
    assert!(matches!(columns(&twice, CopyFormat::Text, &[column("id", "integer")]), Err(Unfit::Twice(_))));
    let many: Vec<_> = (0..=MAX_COLUMNS).map(|n| entry(&n.to_string(), "text")).collect();
    assert!(matches!(columns(&many, CopyFormat::Text, &[]), Err(Unfit::TooMany)));
}
