//! The gallery page: one HTML file without scripts, which shows every picture of a run.

use std::fmt::Write as _;
use std::time::Duration;

/// What is shown of one task.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    /// The picture's name.
    pub(crate) name: String,
    /// How long the last run took.
    pub(crate) duration: Duration,
    /// Attempts that were spent; 0 where none started.
    pub(crate) attempts: u32,
    /// What came of it.
    pub(crate) shown: Shown,
}

/// What came of one picture.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Shown {
    /// A thumbnail was made.
    Made(Made),
    /// None was made.
    Failed {
        /// Why, for people.
        reason: String,
    },
}

/// A thumbnail and what is known of its picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Made {
    /// The thumbnail's file, relative to the page, with `/` between folders.
    pub(crate) thumbnail: String,
    /// Its width in pixels.
    pub(crate) width: u32,
    /// Its height in pixels.
    pub(crate) height: u32,
    /// The picture's width in pixels.
    pub(crate) original_width: u32,
    /// The picture's height in pixels.
    pub(crate) original_height: u32,
    /// The picture's format, such as `png`.
    pub(crate) format: String,
    /// Its dominant colour, `#rrggbb`.
    pub(crate) dominant_color: String,
}

/// Renders the page. All text is escaped: a picture's name cannot add anything to it.
pub(crate) fn render(entries: &[Entry]) -> String {
    let failed = entries.iter().filter(|entry| matches!(entry.shown, Shown::Failed { .. })).count();
    let made = entries.len() - failed;
    let busy: Duration = entries.iter().map(|entry| entry.duration).sum();
    let mut page = String::with_capacity(4096 + entries.len() * 800);
    page.push_str(HEAD);
    put(&mut page, format_args!("<header><h1>Gallery</h1><p>{}", counted(made, "thumbnail")));
    if failed > 0 {
        put(&mut page, format_args!(", <strong>{failed} failed</strong>"));
    }
    put(&mut page, format_args!(", {} of work, by Jetlane</p></header>\n<main>\n", time(busy)));
    for entry in entries {
        card(&mut page, entry);
    }
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn card(page: &mut String, entry: &Entry) {
    let name = escape(&entry.name);
    let facts = format!("{} · {}", time(entry.duration), counted(entry.attempts as usize, "attempt"));
    match &entry.shown {
        Shown::Made(made) => {
            let (color, place) = (color(&made.dominant_color), place(&made.thumbnail));
            put(
                page,
                format_args!(
                    "<figure><a href=\"{place}\" style=\"--c:{color}\"><img src=\"{place}\" width=\"{}\" height=\"{}\" \
                     loading=\"lazy\" alt=\"{name}\"></a><figcaption><b title=\"{name}\">{name}</b>\
                     <span>{} × {} · {}</span><span><i style=\"--c:{color}\"></i>{color}</span>\
                     <span>{facts}</span></figcaption></figure>\n",
                    made.width,
                    made.height,
                    made.original_width,
                    made.original_height,
                    escape(&made.format),
                ),
            );
        }
        Shown::Failed { reason } => put(
            page,
            format_args!(
                "<figure class=\"failed\"><p>{}</p><figcaption><b title=\"{name}\">{name}</b><span>failed</span>\
                 <span>{facts}</span></figcaption></figure>\n",
                escape(reason)
            ),
        ),
    }
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String takes any text");
}

fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Three digits at most, in the unit that people would use.
fn time(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1000.0;
    match ms {
        0.0..10.0 => format!("{ms:.1} ms"),
        10.0..1000.0 => format!("{ms:.0} ms"),
        _ => format!("{:.1} s", ms / 1000.0),
    }
}

/// Text as it may stand between tags and inside a quoted attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Control characters are no HTML, and those that turn the direction of writing could disguise a name.
            c if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {
                escaped.push('\u{fffd}')
            }
            c => escaped.push(c),
        }
    }
    escaped
}

/// A relative path as a URL. `./` in front keeps a first folder with a colon from being a scheme.
fn place(path: &str) -> String {
    path.bytes().fold("./".to_owned(), |mut url, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            url.push(char::from(byte));
        } else {
            put(&mut url, format_args!("%{byte:02X}"));
        }
        url
    })
}

/// The colour where it is one: it stands inside a style, where escaping is no protection.
fn color(text: &str) -> &str {
    let is_color = text.len() == 7 && text.starts_with('#') && text[1..].bytes().all(|digit| digit.is_ascii_hexdigit());
    if is_color { text } else { "#808080" }
}

const HEAD: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Gallery</title>
<style>
:root{color-scheme:light dark;--page:#f6f5f2;--card:#fff;--ink:#22242a;--soft:#6b6f7a;--line:#e4e2dc;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--page:#14161a;--card:#1e2127;--ink:#e9e8e4;--soft:#9a9ea8;--line:#2c3038;--bad:#ff8a80}}
*{box-sizing:border-box}
body{margin:0;padding:2rem clamp(1rem,4vw,4rem);background:var(--page);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
header{display:flex;flex-wrap:wrap;align-items:baseline;gap:.25rem 1rem;margin-bottom:1.5rem}
h1{margin:0;font-size:1.6rem}
header p{margin:0;color:var(--soft)}
strong{color:var(--bad)}
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(210px,1fr));gap:1rem}
figure{display:flex;flex-direction:column;margin:0;overflow:hidden;border:1px solid var(--line);border-radius:12px;background:var(--card)}
figure>a,figure>p{display:grid;place-items:center;height:180px;margin:0;padding:10px;overflow:hidden}
figure>a{background:color-mix(in srgb,var(--c) 22%,var(--card))}
figure>p{overflow-wrap:anywhere;text-align:center;font-size:13px;color:var(--bad)}
img{max-width:100%;max-height:160px;width:auto;height:auto;border-radius:4px}
figcaption{display:grid;gap:.1rem;padding:.7rem .9rem .8rem;border-top:1px solid var(--line);font-size:13px;color:var(--soft)}
b{overflow:hidden;text-overflow:ellipsis;white-space:nowrap;color:var(--ink);font-size:14px}
i{display:inline-block;width:.9em;height:.9em;margin-right:.45em;border:1px solid var(--line);border-radius:3px;background:var(--c);vertical-align:-.1em}
.failed{border-color:var(--bad)}
</style>
</head>
<body>
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str) -> Entry {
        let made = Made {
            thumbnail: "thumbnails/sea side #1.jpg".into(),
            width: 320,
            height: 213,
            original_width: 3000,
            original_height: 2000,
            format: "jpeg".into(),
            dominant_color: "#1e90ff".into(),
        };
        Entry { name: name.into(), duration: Duration::from_micros(41_700), attempts: 1, shown: Shown::Made(made) }
    }

    fn failed(reason: &str) -> Entry {
        let shown = Shown::Failed { reason: reason.into() };
        Entry { name: "torn.png".into(), duration: Duration::from_micros(900), attempts: 3, shown }
    }

    #[test]
    fn a_made_picture_is_shown_with_all_that_is_known_of_it() {
        let page = render(&[made("sea.jpg")]);
        for part in [
            "<img src=\"./thumbnails/sea%20side%20%231.jpg\" width=\"320\" height=\"213\"",
            "alt=\"sea.jpg\"",
            "3000 × 2000 · jpeg",
            "--c:#1e90ff",
            "42 ms · 1 attempt<",
            "<p>1 thumbnail, 42 ms of work",
        ] {
            assert!(page.contains(part), "{part:?} is missing in {page}");
        }
        assert!(!page.contains("failed</strong>"));
    }

    #[test]
    fn a_failed_picture_is_shown_with_its_reason_and_counted() {
        let page = render(&[made("sea.jpg"), failed("is a png picture that is truncated or corrupt")]);
        assert!(page.contains("truncated or corrupt") && page.contains("<strong>1 failed</strong>"));
        assert!(page.contains("0.9 ms · 3 attempts"));
    }

    #[test]
    fn nothing_that_a_picture_brings_becomes_markup_or_style() {
        let hostile = "\"><script>alert('1')</script>&\u{202e}gnp.exe\u{0}";
        let mut entry = made(hostile);
        if let Shown::Made(made) = &mut entry.shown {
            made.thumbnail = "javascript:alert(1)//\"onerror=\"x".into();
            made.dominant_color = "red;background:url(//evil)".into();
            made.format = "<b>".into();
        }
        let page = render(&[entry, failed(hostile)]);
        for part in ["<script", "alert('1')", "url(", "javascript:", "\u{202e}", "\u{0}", "<b>\u{20}", "onerror=\""] {
            assert!(!page.contains(part), "{part:?} got through: {page}");
        }
        assert!(page.contains("&lt;script&gt;") && page.contains("./javascript%3Aalert%281%29//%22onerror%3D%22x"));
    }

    #[test]
    fn the_page_stands_alone_and_every_tag_that_opens_closes() {
        let page = render(&[made("a.png"), failed("why")]);
        for part in ["http:", "https:", "//", "@import", "<script", "<link"] {
            assert!(!page.contains(part), "the page refers to something outside: {part:?}");
        }
        for tag in ["figure", "figcaption", "main", "header", "a", "b", "i", "span", "p", "style", "body", "html"] {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "<{tag}>");
        }
    }

    #[test]
    fn an_empty_run_has_a_page_too() {
        assert!(render(&[]).contains("0 thumbnails"));
    }
}
