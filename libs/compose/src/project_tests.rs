use super::*;
use crate::ComposeFile;

fn files() -> BTreeSet<String> {
    BTreeSet::from(["compose.yaml".to_owned(), "conf/web.env".to_owned()])
}

fn resolve(text: &str) -> Result<Project, ComposeError> {
    let variables = BTreeMap::from([("NAME".to_owned(), "m$e".to_owned()), ("TRUE".to_owned(), "true".to_owned())]);
    ComposeFile::parse(text)?.resolve(&variables, &files())
}

fn web(rest: &str) -> String {
    format!("services: {{ web: {{ image: 'web:1', {rest} }} }}")
}

fn render(project: &Project, archive: &[u8]) -> (Value, BTreeMap<String, String>) {
    render_with(project, archive, &[])
}

/// The same where the node gives these variables to every container.
fn render_with(project: &Project, archive: &[u8], environment: &[(&str, &str)]) -> (Value, BTreeMap<String, String>) {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let environment: &BTreeMap<_, _> = &environment.iter().map(own).collect();
    let images = BTreeMap::from([("web:1".to_owned(), "local:1".to_owned())]);
    let labels = BTreeMap::from([("dev.edgewright.agent".to_owned(), "a".to_owned())]);
    let (address, archive) = ("127.0.0.1".parse().unwrap(), Digest::of(archive));
    let (images, labels, revision) = (&images, &labels, "dev.edgewright.revision");
    let folder = environment.contains_key("FOLDER").then(|| (Path::new("/data/$x"), "/etc/ours"));
    let ours = Ours { images, labels, revision, address, environment, folder, archive };
    let (text, revisions) = project.render(&ours);
    (serde_json::from_str(&text).unwrap(), revisions)
}

#[test]
fn dev_33_a_folder_of_the_node_is_seen_beside_the_volumes_of_the_file() {
    let ours = json!({
        "type": "bind", "source": "/data/$$x", "target": "/etc/ours", "read_only": true,
        "bind": { "create_host_path": false },
    });
    let with_folder = |rest: &str| {
        let project = ComposeFile::parse(&format!("{}\nvolumes: {{ v: {{}} }}", web(rest))).unwrap();
        let project = project.resolve(&BTreeMap::new(), &files()).unwrap();
        render_with(&project, b"a", &[("FOLDER", "")]).0["services"]["web"]["volumes"].clone()
    };
    assert_eq!(with_folder("volumes: ['v:/v']"), json!(["v:/v", ours]));
    assert_eq!(with_folder("command: [a]"), json!([ours]));
}

#[test]
fn dev_33_variables_of_the_node_are_added_and_those_of_the_file_count_more() {
    let project = resolve(&web("environment: { SET: own }, command: [a]")).unwrap();
    let (plain, before) = render(&project, b"a");
    assert_eq!(plain["services"]["web"]["environment"], json!({ "SET": "own" }));
    let (file, after) = render_with(&project, b"a", &[("SET", "x"), ("MORE", "$y")]);
    assert_eq!(file["services"]["web"]["environment"], json!({ "SET": "own", "MORE": "$$y" }));
    assert_ne!(before, after, "its containers are other ones");
    let bare = resolve(&web("command: [a]")).unwrap();
    assert_eq!(render(&bare, b"a").0["services"]["web"].get("environment"), None);
    assert_eq!(render_with(&bare, b"a", &[("A", "b")]).0["services"]["web"]["environment"], json!({ "A": "b" }));
}

/// What would give the host away, or reach what is not the application's, or bring images that nobody fixed.
#[test]
fn each_feature_that_gives_the_host_away_is_refused_by_name() {
    for (rest, field) in [
        ("privileged: true", "privileged"),
        ("privileged: '${TRUE}'", "privileged"),
        ("devices: ['/dev/mem:/dev/mem']", "devices"),
        ("device_cgroup_rules: ['a *:* rwm']", "device_cgroup_rules"),
        ("gpus: all", "gpus"),
        ("pid: host", "pid"),
        ("ipc: host", "ipc"),
        ("uts: host", "uts"),
        ("cgroup: host", "cgroup"),
        ("cgroup_parent: /", "cgroup_parent"),
        ("userns_mode: host", "userns_mode"),
        ("network_mode: host", "network_mode"),
        ("network_mode: 'container:other'", "network_mode"),
        ("use_api_socket: true", "use_api_socket"),
        ("provider: { type: sh }", "provider"),
        ("runtime: other", "runtime"),
        ("cap_add: [SYS_ADMIN]", "cap_add"),
        ("cap_add: [CAP_NET_ADMIN]", "cap_add"),
        ("security_opt: ['seccomp:unconfined']", "security_opt"),
        ("security_opt: ['no-new-privileges:false']", "security_opt"),
        ("sysctls: { kernel.core_pattern: x }", "sysctls"),
        ("volumes: ['/:/host']", "volumes[0]"),
        ("volumes: ['./data:/data']", "volumes[0]"),
        ("volumes: ['~/x:/data']", "volumes[0]"),
        ("volumes: ['${NAME}:/data']", "volumes[0]"),
        ("volumes: [{ type: bind, source: /, target: /host }]", "volumes[0]"),
        ("volumes: [{ type: image, source: 'x:1', target: /x }]", "volumes[0]"),
        ("volumes: [{ type: volume, target: /x, bind: { propagation: shared } }]", "volumes[0].bind"),
        ("volumes_from: ['container:other']", "volumes_from"),
        ("external_links: [other]", "external_links"),
        ("container_name: web", "container_name"),
        ("build: .", "build"),
        ("extends: { file: /etc/x, service: y }", "extends"),
        ("secrets: [x]", "secrets"),
        ("profiles: [x]", "profiles"),
        ("platform: linux/arm64", "platform"),
        ("oom_score_adj: -1000", "oom_score_adj"),
        ("logging: { driver: syslog }", "logging.driver"),
        ("logging: { driver: json-file, options: { syslog-address: x } }", "logging.options.syslog-address"),
        ("labels: { com.docker.compose.project: other }", "labels"),
        ("labels: ['dev.edgewright.agent=other']", "labels"),
        ("env_file: /etc/shadow", "env_file"),
        ("env_file: ../x", "env_file"),
        ("env_file: [{ path: ../x }]", "env_file[0].path"),
        ("networks: { other: {} }", "networks"),
        ("networks: { default: { driver_opts: {} } }", "networks.default.driver_opts"),
        ("deploy: { resources: { reservations: { devices: [] } } }", "deploy.resources.reservations.devices"),
        ("deploy: { replicas: 1000 }", "deploy.replicas"),
        ("post_start: [{ command: x, privileged: true }]", "post_start"),
        ("develop: {}", "develop"),
        ("what_comes_next_year: 1", "what_comes_next_year"),
    ] {
        let refused = resolve(&web(rest)).unwrap_err();
        assert_eq!(refused.field, format!("services.web.{field}"), "{rest}: {refused}");
    }
    for (rest, field) in [
        ("include: [other.yaml]", "include"),
        ("secrets: { x: { file: y } }", "secrets"),
        ("models: {}", "models"),
        ("networks: { x: { external: true } }", "networks.x.external"),
        ("networks: { x: { name: other } }", "networks.x.name"),
        ("networks: { x: { driver: host } }", "networks.x.driver"),
        ("networks: { x: { driver_opts: { parent: eth0 } } }", "networks.x.driver_opts"),
        ("networks: { x: { ipam: { config: [{ subnet: 192.168.1.0/24 }] } } }", "networks.x.ipam"),
        ("volumes: { x: { driver_opts: { type: none, o: bind, device: / } } }", "volumes.x.driver_opts"),
        ("volumes: { x: { external: true } }", "volumes.x.external"),
        ("configs: { x: { file: /etc/shadow } }", "configs.x.file"),
        ("configs: { x: { environment: HOME } }", "configs.x.environment"),
    ] {
        let text = format!("services: {{ web: {{ image: 'web:1' }} }}\n{rest}\n");
        let refused = resolve(&text).unwrap_err();
        assert_eq!(refused.field, field, "{rest}: {refused}");
    }
    for text in ["[]", "services: {}", "services: { web: {} }", "services: { web: { image: 'web:${TRUE}' } }", "a: *b"]
    {
        assert!(resolve(text).is_err(), "{text}");
    }
    let merged = "x-a: &a { privileged: true }\nservices: { web: { image: 'web:1', <<: *a } }\n";
    assert!(resolve(merged).is_err(), "not every reader merges alike");
}

#[test]
fn what_an_application_needs_is_allowed_and_written_out_literally() {
    let project = resolve(
        "name: mine\nversion: '3'\nx-note: $nothing\n\
         services:\n  web:\n    image: web:1\n    command: [httpd, '$NAME', '$$HOME']\n    pull_policy: always\n    \
         environment: [NAME, NONE, 'A=${NAME}']\n    ports: ['8080:80', '9000-9001:90-91']\n    restart: always\n    \
         volumes: ['data:/data:ro', /cache, { type: tmpfs, target: /run }]\n    privileged: false\n    \
         cap_drop: [ALL]\n    cap_add: [NET_BIND_SERVICE]\n    security_opt: ['no-new-privileges:true']\n    \
         env_file: ./conf/web.env\n    networks: { inner: { aliases: [www] } }\n    \
         depends_on: { setup: { condition: service_completed_successfully } }\n  \
         setup: { image: 'web:1' }\n  once: { image: 'web:1', restart: no, scale: 2 }\n\
         networks: { inner: { internal: true } }\nvolumes: { data: }\n",
    )
    .unwrap();
    let jobs: Vec<_> = project.services.iter().map(|(name, service)| (name.as_str(), service.is_job)).collect();
    assert_eq!(jobs, [("once", true), ("setup", true), ("web", false)]);
    assert_eq!(project.services["once"].replicas, 2);
    assert_eq!(project.ports(), BTreeSet::from([8080, 9000, 9001]));
    let (file, _) = render(&project, b"");
    let web = &file["services"]["web"];
    assert_eq!(web["command"], json!(["httpd", "m$$e", "$$HOME"]));
    assert_eq!(web["environment"], json!({ "NAME": "m$$e", "A": "m$$e" }));
    assert_eq!((&web["image"], &web["pull_policy"]), (&json!("local:1"), &json!("never")));
    let port =
        json!({ "mode": "ingress", "target": 80, "published": "8080", "host_ip": "127.0.0.1", "protocol": "tcp" });
    assert_eq!(web["ports"], json!([port, "127.0.0.1:9000-9001:90-91/tcp"]));
    assert_eq!((&web["restart"], &file["services"]["once"]["restart"]), (&json!("always"), &json!("no")));
    assert_eq!(file["services"]["setup"]["restart"], json!("no"));
    assert_eq!(web["labels"]["dev.edgewright.agent"], json!("a"));
    assert_eq!(file["volumes"]["data"]["labels"]["dev.edgewright.agent"], json!("a"));
    assert_eq!(file["networks"]["default"]["labels"]["dev.edgewright.agent"], json!("a"));
    assert!(file.get("name").is_none() && file.get("x-note").is_none());
}

#[test]
fn a_service_has_another_revision_only_when_its_containers_change() {
    let text = |greeting: &str| {
        format!(
            "services: {{ web: {{ image: 'web:1', environment: {{ G: '{greeting}' }} }}, db: {{ image: 'web:1' }}, \
             conf: {{ image: 'web:1', env_file: conf/web.env }} }}"
        )
    };
    let (_, first) = render(&resolve(&text("a")).unwrap(), b"one");
    let (_, second) = render(&resolve(&text("b")).unwrap(), b"two");
    assert_ne!(first["web"], second["web"]);
    assert_eq!(first["db"], second["db"]);
    assert_ne!(first["conf"], second["conf"], "the file that it reads may have changed");
    assert_eq!(render(&resolve(&text("a")).unwrap(), b"one").1, first);
}

#[test]
fn a_port_on_another_address_of_the_host_is_found() {
    let project = resolve(&web("ports: ['192.0.2.1:80:80', '127.0.0.1:81:81', '82:82']")).unwrap();
    let elsewhere = |address: &str| project.port_elsewhere(address.parse().unwrap()).and_then(|port| port.host);
    assert_eq!(elsewhere("127.0.0.1"), Some((80, 80)));
    assert_eq!(elsewhere("192.0.2.1"), None);
    assert_eq!(elsewhere("0.0.0.0"), None);
}
