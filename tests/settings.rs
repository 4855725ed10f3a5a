//! `docs/settings.md` is what the program says of its settings. `UPDATE=1 cargo test --test settings` writes it anew.

use std::fs;
use std::path::Path;

#[test]
fn the_page_of_settings_is_that_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    let page = holdfast::config::reference();
    if std::env::var("UPDATE").is_ok_and(|value| value == "1") {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &page).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    for (line, (is, should)) in written.lines().zip(page.lines()).enumerate() {
        assert_eq!(is, should, "docs/settings.md, line {}: UPDATE=1 cargo test --test settings writes it anew", line + 1);
    }
    assert!(written == page, "docs/settings.md is shorter or longer than it should be; UPDATE=1 writes it anew");
    for name in ["HOLDFAST_LISTEN", "HOLDFAST_HEALTH_LISTEN", "OTEL_EXPORTER_OTLP_ENDPOINT", "HOLDFAST_ENDPOINT"] {
        assert!(page.contains(&format!("| `{name}` |")), "{name} is missing");
    }
}
