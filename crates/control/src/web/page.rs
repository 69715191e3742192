//! The status as one page of plain HTML: no scripts, nothing loaded from elsewhere.

use std::fmt::{self, Display, Write as _};

use bartizan_mesh::MtlsMode;

use crate::status::{Status, WorkloadStatus};

/// Text that came from documents or processes, made harmless.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Writer<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl fmt::Write for Writer<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for c in text.chars() {
                    match c {
                        '&' => self.0.write_str("&amp;")?,
                        '<' => self.0.write_str("&lt;")?,
                        '>' => self.0.write_str("&gt;")?,
                        '"' => self.0.write_str("&quot;")?,
                        '\'' => self.0.write_str("&#39;")?,
                        c => self.0.write_char(c)?,
                    }
                }
                Ok(())
            }
        }
        write!(Writer(f), "{}", self.0)
    }
}

/// The whole page.
pub(super) fn render(status: &Status) -> String {
    let mut page = String::with_capacity(16 * 1024);
    let _ = write_page(&mut page, status); // a String takes everything
    page
}

fn write_page(page: &mut String, status: &Status) -> fmt::Result {
    page.write_str(HEAD)?;
    let profile = &status.profile;
    writeln!(
        page,
        "<h1>bartizan</h1>\n<p>Trust domain <b>{}</b>, profile <b>{profile}</b>, version <b>{}</b> of {} documents, \
         control plane {} up for {}.</p>",
        Escaped(&status.trust_domain),
        status.version,
        status.documents,
        Escaped(&status.build),
        span(status.uptime_seconds),
    )?;
    let now = status
        .started_at
        .saturating_add(i64::try_from(status.uptime_seconds).unwrap_or(0));
    writeln!(
        page,
        "<p class=\"note\">{}: {}. Its root ends in {}.</p>",
        Escaped(&status.authority.kind),
        Escaped(&status.authority.notice),
        span(left(status.authority.root_not_after, now)),
    )?;
    match &status.node {
        None => page
            .write_str("<p class=\"bad\">The node has not reported yet: nothing is sent to proxies.</p>\n")?,
        Some(node) if !node.connected => {
            writeln!(
                page,
                "<p class=\"bad\">The node {} is not connected.</p>",
                Escaped(&node.name)
            )?;
        }
        Some(_) => {}
    }
    write_findings(page, status)?;
    write_workloads(page, status, now)?;
    write_services(page, status)?;
    write_gateways(page, status)?;
    page.write_str(
        "<p><a href=\"/status.json\">status.json</a> <a href=\"/metrics\">metrics of all proxies</a></p>\n</body></html>\n",
    )
}

fn write_findings(page: &mut String, status: &Status) -> fmt::Result {
    if status.refused {
        writeln!(
            page,
            "<p class=\"bad\">What stands on disk is refused; version {} is served.</p>",
            status.version
        )?;
    }
    if status.findings.is_empty() {
        return Ok(());
    }
    page.write_str("<h2>Findings</h2>\n")?;
    for finding in &status.findings {
        let class = if finding.is_error() { "bad" } else { "note" };
        writeln!(page, "<pre class=\"{class}\">{}</pre>", Escaped(&finding.text))?;
    }
    if status.findings_left_out > 0 {
        writeln!(page, "<p>and {} more</p>", status.findings_left_out)?;
    }
    Ok(())
}

fn write_workloads(page: &mut String, status: &Status, now: i64) -> fmt::Result {
    page.write_str(
        "<h2>Workloads</h2>\n<table><tr><th>workload<th>identity<th>address<th>state<th>mTLS<th>policies<th>version<th>certificate</tr>\n",
    )?;
    for workload in &status.workloads {
        let (class, state) = state(workload);
        let address = workload
            .address
            .map(|address| address.to_string())
            .unwrap_or_default();
        let proxy = workload.proxy.as_ref();
        let (version_class, version) = match proxy {
            None => ("bad", "not connected".to_owned()),
            Some(proxy) if proxy.refused.is_some() => (
                "bad",
                format!("refuses {}", proxy.refused.as_deref().unwrap_or_default()),
            ),
            Some(proxy) => {
                let current = proxy.acknowledged == Some(status.version) && proxy.connected;
                let version = proxy
                    .acknowledged
                    .map(|version| version.to_string())
                    .unwrap_or_default();
                let away = if proxy.connected { "" } else { " (not connected)" };
                (if current { "good" } else { "bad" }, format!("{version}{away}"))
            }
        };
        let certificate = proxy
            .and_then(|proxy| proxy.certificate_not_after)
            .map(|end| format!("{} left", span(left(end, now))))
            .unwrap_or_default();
        writeln!(
            page,
            "<tr><td>{}<td>{}<td>{}<td class=\"{class}\">{}<td>{}<td>{}<td class=\"{version_class}\">{}<td>{certificate}</tr>",
            Escaped(&workload.name),
            Escaped(&workload.identity),
            Escaped(address),
            Escaped(state),
            mtls_word(workload.mtls),
            format_args!("{} allow, {} deny", workload.allow, workload.deny),
            Escaped(version),
        )?;
    }
    page.write_str("</table>\n")
}

fn state(workload: &WorkloadStatus) -> (&'static str, String) {
    if workload.ready {
        return ("good", "ready".to_owned());
    }
    let phase = workload.phase.map_or_else(
        || "planned".to_owned(),
        |phase| format!("{phase:?}").to_lowercase(),
    );
    let state = match &workload.message {
        Some(message) => format!("{phase}: {message}"),
        None => phase,
    };
    ("bad", state)
}

fn write_services(page: &mut String, status: &Status) -> fmt::Result {
    page.write_str("<h2>Services</h2>\n<table><tr><th>service<th>name<th>address<th>ports<th>ready</tr>\n")?;
    for service in &status.services {
        let addresses: Vec<_> = service.addresses.iter().map(ToString::to_string).collect();
        let ports: Vec<_> = service
            .ports
            .iter()
            .map(|port| format!("{} {:?}", port.port, port.protocol).to_lowercase())
            .collect();
        writeln!(
            page,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{} of {}</tr>",
            Escaped(&service.name),
            Escaped(&service.hostname),
            Escaped(addresses.join(" ")),
            Escaped(ports.join(" ")),
            service.ready,
            service.endpoints,
        )?;
    }
    page.write_str("</table>\n")
}

fn write_gateways(page: &mut String, status: &Status) -> fmt::Result {
    if status.gateways.is_empty() {
        return Ok(());
    }
    page.write_str("<h2>Gateways</h2>\n<table><tr><th>gateway<th>listens on<th>state</tr>\n")?;
    for gateway in &status.gateways {
        let addresses: Vec<_> = gateway.addresses.iter().map(ToString::to_string).collect();
        let (class, state) = if gateway.ready {
            ("good", "ready")
        } else {
            ("bad", "not ready")
        };
        writeln!(
            page,
            "<tr><td>{}<td>{}<td class=\"{class}\">{state}</tr>",
            Escaped(&gateway.name),
            Escaped(addresses.join(" ")),
        )?;
    }
    page.write_str("</table>\n")
}

fn mtls_word(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Disable => "disable",
        MtlsMode::Permissive => "permissive",
        MtlsMode::Strict => "strict",
    }
}

fn left(end: i64, now: i64) -> u64 {
    u64::try_from(end.saturating_sub(now)).unwrap_or(0)
}

fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"5\">\
<meta name=\"viewport\" content=\"width=device-width\"><title>bartizan</title><style>\
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:80em;padding:0 1em}\
table{border-collapse:collapse;width:100%;font-size:14px}th,td{text-align:left;padding:.25em .6em;border-bottom:1px solid #8884;overflow-wrap:anywhere}\
pre{padding:.6em;overflow:auto;border-left:3px solid}.good{color:#1a7f37}.bad{color:#cf222e}.note{color:#9a6700}h2{margin-top:1.6em}\
</style></head><body>\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_documents_say_cannot_become_markup() {
        let escaped = Escaped("<script>'\"&").to_string();
        assert_eq!(escaped, "&lt;script&gt;&#39;&quot;&amp;");
    }

    #[test]
    fn spans_are_readable() {
        for (seconds, text) in [(5, "5 s"), (3_599, "59 min"), (7_200, "2 h"), (172_800, "2 days")] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(left(10, 20), 0);
    }
}
