use super::*;
use crate::{ParameterError, check_parameters};

/// A small valid description; each test changes what it is about.
pub(crate) const HELLO: &str = r#"apiVersion: v1
id: hello
metadata:
  name: Hello
  version: 1.0.0
  catalog:
    organization:
      - name: Edgewright
deploymentProfiles:
  - id: wasm
    type: custom
    x-edgewright-extensions:
      runtime: wasm
    components:
      - name: hello
        properties:
          repository: oci://edgewright.local/hello
          revision: 1.0.0
        x-edgewright-extensions:
          http:
            port: 8080
parameters:
  greeting:
    value: Hello
    targets:
      - pointer: GREETING
        components: [hello]
configuration:
  sections:
    - name: General
      settings:
        - parameter: greeting
          name: Greeting
          schema: text
  schema:
    - name: text
      dataType: string
x-supplier-extensions:
  anything: goes
"#;

fn hello() -> ApplicationDescription {
    ApplicationDescription::parse(HELLO.as_bytes(), "margo.yaml").unwrap()
}

fn refusal(change: &str, to: &str) -> String {
    assert!(HELLO.contains(change), "{change}");
    ApplicationDescription::parse(HELLO.replacen(change, to, 1).as_bytes(), "margo.yaml").unwrap_err().to_string()
}

#[test]
fn wfm_16_unknown_extensions_are_kept_and_never_a_reason_to_refuse() {
    assert_eq!(hello().extensions["x-supplier-extensions"], serde_json::json!({ "anything": "goes" }));
}

#[test]
fn a_refusal_names_file_line_column_field_and_rule() {
    let error = refusal("    type: custom", "    type: flatpak");
    assert!(error.starts_with("margo.yaml:11:11: deploymentProfiles[0].type: "), "{error}");
    assert!(error.contains("helm") && error.contains("custom"), "{error}");

    let error = refusal("  name: Hello\n", "  name: Hello\n  colour: red\n");
    assert!(error.starts_with("margo.yaml:5:3: metadata.colour: "), "{error}");

    let error = refusal("    type: custom\n", "    type: custom\n    colour: red\n");
    assert!(error.starts_with("margo.yaml:12:5: deploymentProfiles[0]: unknown field `colour`"), "{error}");

    let error = refusal("id: hello", "id: Hello_World");
    assert!(error.starts_with("margo.yaml:2:5: id: "), "{error}");
}

#[test]
fn app_01_only_api_version_v1_is_read() {
    assert!(refusal("apiVersion: v1", "apiVersion: margo.org/v1-alpha1").contains("apiVersion"));
}

#[test]
fn app_03_a_revision_is_semver_without_v() {
    assert!(refusal("revision: 1.0.0", "revision: v1.0.0").contains("SemVer"));
    assert!(refusal("revision: 1.0.0", "revision: latest").contains("SemVer"));
}

#[test]
fn app_06_a_target_names_a_component_that_exists() {
    assert!(refusal("components: [hello]", "components: [other]").contains("no profile has a component \"other\""));
}

#[test]
fn what_becomes_of_a_failed_update_is_one_of_two_words() {
    let with = |what: &str| format!("      runtime: wasm\n      failedUpdate: {what}\n");
    for good in ["leave", "restore"] {
        let text = HELLO.replacen("      runtime: wasm\n", &with(good), 1);
        ApplicationDescription::parse(text.as_bytes(), "margo.yaml").unwrap();
    }
    for bad in ["leaf", "Leave", "true", "[]"] {
        let refused = refusal("      runtime: wasm\n", &with(bad));
        let field = "margo.yaml: deploymentProfiles[0].x-edgewright-extensions.failedUpdate: must be restore or leave";
        assert!(refused.starts_with(field), "{refused}");
    }
}

#[test]
fn what_an_application_needs_is_more_than_nothing() {
    let with = |memory: &str, cores: &str, timeout: &str| {
        let constraints = format!(
            "    type: custom\n    deviceConstraints: {{ capacityRequirements: {{ memory: {memory}, cpu: {{ cores: {cores} }} }} }}\n"
        );
        let text = HELLO.replacen("    type: custom\n", &constraints, 1);
        let text = text.replacen("revision: 1.0.0", &format!("revision: 1.0.0\n          timeout: {timeout}"), 1);
        ApplicationDescription::parse(text.as_bytes(), "margo.yaml").map_err(|error| error.field)
    };
    for memory in ["512Mi", "1024Ki", "1234567890123Ki"] {
        assert!(with(memory, "0.5", "0m1s").is_ok(), "{memory}");
    }
    let (capacities, properties) = (
        "deploymentProfiles[0].deviceConstraints.capacityRequirements",
        "deploymentProfiles[0].components[0].properties",
    );
    for memory in ["0Mi", "000Gi", "512", "512MB", "Mi", "-1Mi", "1.5Gi", "99999999999999999Gi"] {
        assert_eq!(with(memory, "1", "1m0s").unwrap_err(), format!("{capacities}.memory"), "{memory}");
    }
    for cores in ["0", "-1", ".nan", ".inf"] {
        assert_eq!(with("1Ki", cores, "1m0s").unwrap_err(), format!("{capacities}.cpu.cores"), "{cores}");
    }
    assert_eq!(with("1Ki", "1", "0m0s").unwrap_err(), format!("{properties}.timeout"));
}

#[test]
fn app_11_an_extension_has_the_name_of_one() {
    assert!(refusal("x-supplier-extensions", "x-supplier").contains("x-supplier"));
}

#[test]
fn a_setting_of_a_wasm_component_that_is_misspelt_or_wrong_is_refused_with_its_field() {
    let error = refusal("            port: 8080", "            prot: 8080");
    assert!(error.contains("deploymentProfiles[0].components[0].x-edgewright-extensions.http.prot: "), "{error}");
    let error = refusal("          http:\n", "          memory: 64MB\n          http:\n");
    assert!(error.contains("x-edgewright-extensions.memory: \"64MB\" must be"), "{error}");
    let error = refusal("        x-edgewright-extensions:\n          http:\n            port: 8080\n", "");
    assert!(error.contains("components[0].x-edgewright-extensions: a wasm component needs http.port"), "{error}");
    // Settings of a runtime that is not ours are passed on as they are.
    let other = HELLO.replace("runtime: wasm", "runtime: other").replace("port: 8080", "prot: 8080");
    ApplicationDescription::parse(other.as_bytes(), "margo.yaml").unwrap();
}

#[test]
fn a_key_written_twice_is_refused() {
    assert!(refusal("id: hello\n", "id: hello\nid: other\n").contains(":3:"));
}

#[test]
fn superseded_and_broken_examples_of_the_specification_are_refused() {
    let read = |name: &str| std::fs::read(format!("{}/tests/margo/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    // T04: upstream lists it as valid, but the extra indent of line 59 makes its `values` part of line 58.
    let broken = ApplicationDescription::parse(&read("ApplicationDescription-002.yaml"), "002").unwrap_err();
    assert_eq!(broken.line, 58, "{broken}");
    let old = ApplicationDescription::parse(&read("ApplicationDescription-001-v1-alpha1.yaml"), "001").unwrap_err();
    assert!(old.to_string().contains("apiVersion"), "{old}");
}

#[test]
fn wfm_30_parameters_are_checked_for_presence_and_data_type() {
    let description = hello();
    let given = |name: &str, value| BTreeMap::from([(name.to_owned(), value)]);

    let in_force = check_parameters(&description, &BTreeMap::new()).unwrap();
    assert_eq!(in_force["greeting"], ParameterValue::Text("Hello".into()));

    let errors = check_parameters(&description, &given("greeting", ParameterValue::Integer(7))).unwrap_err();
    assert_eq!(errors, [("greeting".to_owned(), ParameterError::Type(DataType::Text))]);

    let errors = check_parameters(&description, &given("colour", ParameterValue::Text("red".into()))).unwrap_err();
    assert_eq!(errors, [("colour".to_owned(), ParameterError::Unknown("greeting".into()))]);

    let without_default =
        ApplicationDescription::parse(HELLO.replace("    value: Hello\n", "").as_bytes(), "m").unwrap();
    let errors = check_parameters(&without_default, &BTreeMap::new()).unwrap_err();
    assert_eq!(errors, [("greeting".to_owned(), ParameterError::Missing)]);
}
