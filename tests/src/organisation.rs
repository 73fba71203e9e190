//! Packages as organisations write them, of any length: an `org` folder that is shared, and a folder of applications.
//!
//! Nothing is random: a size gives one package.

use seg_lang::source::Sources;
use std::fmt::Write as _;

/// Applications that may take part in a flow of another one, counted from its own number.
const NEIGHBOURS: [usize; 2] = [1, 7];

/// A package of at least `lines` lines and fewer than one application more; eight applications at least.
pub fn package(lines: usize) -> Sources {
    let mut files = vec![
        ("org/guards.seg".to_owned(), GUARDS.to_owned()),
        ("org/labels.seg".to_owned(), LABELS.to_owned()),
        ("org/nets.seg".to_owned(), NETS.to_owned()),
        ("org/services.seg".to_owned(), SERVICES.to_owned()),
    ];
    let mut n_lines: usize = files.iter().map(|(_, text)| text.lines().count()).sum();
    let mut n_apps = 0;
    while n_lines < lines || n_apps <= NEIGHBOURS[1] {
        let text = application(n_apps);
        n_lines += text.lines().count();
        files.push((format!("apps/{}.seg", name(n_apps)), text));
        n_apps += 1;
    }
    // The first applications are called by the last ones only where those exist.
    files.sort();
    let mut sources = Sources::default();
    for (path, text) in files {
        sources.add(path, text);
    }
    sources
}

fn name(app: usize) -> String {
    const WORDS: [&str; 8] =
        ["billing", "search", "orders", "ledger", "catalogue", "mail", "profile", "reports"];
    format!("{}-{}", WORDS[app % WORDS.len()], app / WORDS.len())
}

/// One application: groups, an inventory, a policy with its rules, tests.
fn application(app: usize) -> String {
    let own = name(app);
    let (third, fourth) = (app / 200 % 200, app % 200);
    let mut text = format!(
        r#"## The {own} service: web tier, interface, workers and their stores.
##
## Owned by team-{team}; the runbook is linked from the ticket.

import org.labels
import org.nets
import org.services
import std.services.{{ https, postgres, redis }}

# Tiers.

group web     = app:{own} & role:web
group api     = app:{own} & role:api
group worker  = app:{own} & role:{{ worker, cron }}
group store   = app:{own} & role:{{ db, cache }}
## Everything that may be asked from outside the application.
group front   = {{ web, api }}
group backend = app:{own} & role:{{ api, worker, cron, db, cache }}
service admin = {{ tcp/{admin}, tcp/{admin}-{admin_last} }}

workload {own}-web-1 at 10.{third}.{fourth}.1 is app:{own} & role:web & env:prod
workload {own}-api-1 at {{ 10.{third}.{fourth}.2, fd00:{third:x}:{fourth:x}::2 }} is app:{own} & role:api & env:prod
workload {own}-db-1  at 10.{third}.{fourth}.3 is app:{own} & role:db & env:prod

@owner("team-{team}")
@ticket("NET-{ticket}")
policy {own} for app:{own} {{
    allow unmanaged & nets.internet -> web on https
    allow web -> api on {{ tcp/8080, tcp/8443 }} when same env
    allow api -> store on {{ postgres, redis }} when same env
    allow worker -> store on {{ postgres, redis }} when same env

    # Jobs are put into queues by both.
    allow front -> worker on services.queue when same env, zone

    ## Metrics are pulled.
    allow app:monitoring -> app:{own} & env:{{ prod, staging }} on services.metrics
    allow app:{own} -> app:logging on services.syslog

    @reason("operators come by the bastion only")
    @since(2026-01-15)
    allow role:bastion -> app:{own} except role:db on {{ services.remote, admin }}
    deny env:dev -> backend & env:prod
        unless {{
            @ticket("NET-{ticket}") @reason("replay of recorded traffic")
            app:replay & env:dev -> api & env:prod on tcp/8443
        }}
"#,
        team = app % 37,
        admin = 9000 + app % 100,
        admin_last = 9200 + app % 100,
        ticket = 1000 + app,
    );
    for distance in NEIGHBOURS {
        if let Some(other) = app.checked_sub(distance) {
            let other = name(other);
            let _ = writeln!(text, "    allow api -> app:{other} & role:api on tcp/8443");
        }
    }
    let _ = write!(
        text,
        r#"    isolate app:{own}
}}

test "{own}: only its own tiers reach the stores" {{
    expect deny unmanaged -> store
    expect deny web -> store on postgres
    expect allow api -> store & env:prod on postgres
    expect only {{ api, worker, role:bastion, app:monitoring, app:replay }} -> store on postgres
    expect allow {own}-api-1 -> {own}-db-1 on postgres
    expect deny 10.{third}.{fourth}.1 -> 10.{third}.{fourth}.3 on tcp/5432
}}
"#
    );
    text
}

const LABELS: &str = r#"## The label dimensions of the organisation.

label app
label env  = { prod, staging, dev }
label role = { web, api, worker, cron, db, cache, bastion }
label zone = { north, south, east, west }
label quarantine = { yes }
"#;

const NETS: &str = r#"## Networks, as the address plan has them.

net office   = { 10.250.0.0/16, 10.251.0.0/16, fd00:ff::/48 }
net partners = { 192.0.2.0/24, 198.51.100.0/24, 203.0.113.16-203.0.113.31 }
net private  = { 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, fd00::/8 }
net internet = any except { private, partners }
"#;

const SERVICES: &str = r#"## Services that are not in the standard library.

service queue   = { tcp/5671-5672, tcp/9092 }
service metrics = tcp/9100-9200
service syslog  = { udp/514, tcp/6514 }
service remote  = { tcp/22, icmp/echo-request, icmp6/echo-request }
"#;

const GUARDS: &str = r#"import org.labels
import org.nets
import org.services

## A machine under suspicion speaks to forensics only.
guard quarantine {
    deny any <-> quarantine:yes unless { app:forensics -> quarantine:yes on services.remote }
}

guard environments {
    deny env:dev <-> env:prod unless { app:replay & env:dev -> role:api & env:prod on tcp/8443 }
}

baseline office {
    allow nets.office & unmanaged -> role:bastion on services.remote
}
"#;
