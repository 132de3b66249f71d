use super::*;
use crate::{ParameterError, check_parameters, immutable_changes};

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

fn fields(errors: &DocumentErrors) -> Vec<String> {
    errors.iter().map(|error| error.field.clone()).collect()
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
    assert!(error.starts_with("margo.yaml:12:5: deploymentProfiles[0].colour: unknown field `colour`"), "{error}");

    let error = refusal("id: hello", "id: Hello_World");
    assert!(error.starts_with("margo.yaml:2:5: id: "), "{error}");
}

#[test]
fn all_faults_of_a_document_are_told_at_once_each_with_its_place() {
    let all = |text: &str| {
        let errors = ApplicationDescription::parse(text.as_bytes(), "margo.yaml").unwrap_err();
        errors.iter().map(|it| format!("{}:{} {}", it.line, it.column, it.field)).collect::<Vec<_>>()
    };
    // What does not read.
    let unreadable = HELLO
        .replace("id: hello\n", "id: Hello World\n")
        .replace("  name: Hello\n", "  name: Hello\n  colour: red\n")
        .replace("    type: custom\n", "    type: flatpak\n    size: 1\n")
        .replace("    - name: text\n      dataType: string\n", "    - dataType: number\n");
    assert_eq!(
        all(&unreadable),
        [
            "2:5 id",
            "5:11 metadata.colour",
            "12:11 deploymentProfiles[0].type",
            "13:11 deploymentProfiles[0].size",
            "38:7 configuration.schema[0].name",
            "38:17 configuration.schema[0].dataType",
        ]
    );
    // What reads and breaks rules.
    let broken = HELLO
        .replace("revision: 1.0.0", "revision: v1")
        .replace("repository: oci://edgewright.local/hello", "repository: docker.io/hello")
        .replace("components: [hello]", "components: [hello, other, third]")
        .replace("schema: text", "schema: texts");
    assert_eq!(
        all(&broken),
        [
            "17:23 deploymentProfiles[0].components[0].properties.repository",
            "18:21 deploymentProfiles[0].components[0].properties.revision",
            "27:29 parameters.greeting.targets[0].components[1]",
            "27:36 parameters.greeting.targets[0].components[2]",
            "34:19 configuration.sections[0].settings[0].schema",
        ]
    );
    let many = HELLO.replace("components: [hello]", &format!("components: [{}]", vec!["other"; 100].join(", ")));
    assert_eq!(all(&many).len(), 20);
}

#[test]
fn app_01_only_api_version_v1_is_read() {
    let error = refusal("apiVersion: v1", "apiVersion: margo.org/v1-alpha1");
    assert!(error.starts_with("margo.yaml:1:13: apiVersion: this is the older form"), "{error}");
    assert!(refusal("apiVersion: v1", "apiVersion: v2").contains("apiVersion: unknown variant `v2`"));
}

#[test]
fn app_03_a_revision_is_semver_without_v() {
    assert!(refusal("revision: 1.0.0", "revision: v1.0.0").contains("SemVer"));
    assert!(refusal("revision: 1.0.0", "revision: latest").contains("SemVer"));
    assert!(refusal("revision: 1.0.0", "revision: 1.0.0+build").contains("+ written as _"));
    parsed(&HELLO.replace("revision: 1.0.0", "revision: 1.0.0_build"));
}

#[test]
fn app_06_a_target_names_a_component_that_exists() {
    assert!(refusal("components: [hello]", "components: [other]").contains("no profile has a component \"other\""));
}

#[test]
fn app_06_a_parameter_goes_somewhere() {
    let targets = "    targets:\n      - pointer: GREETING\n        components: [hello]\n";
    for (change, field) in [
        ("    targets: []\n", "targets: "),
        ("    targets: [{ pointer: '', components: [hello] }]\n", "targets[0].pointer: "),
        ("    targets: [{ pointer: A, components: [] }]\n", "targets[0].components: "),
    ] {
        let error = refusal(targets, change);
        assert!(error.contains(&format!(": parameters.greeting.{field}")), "{error}");
    }
}

#[test]
fn app_07_expressions_have_what_their_operator_needs_and_nothing_else() {
    let with = |rules: &str| {
        HELLO.replacen(
            "    type: custom\n",
            &format!("    type: custom\n    deviceConstraints: {{ eligibilityRules: {rules} }}\n"),
            1,
        )
    };
    let property =
        |expression: &str| with(&format!("[{{ propertySelector: {{ matchExpressions: [{expression}] }} }}]"));
    for good in [
        "{ key: vendor, operator: In, values: [ACME, Other] }",
        "{ key: /cpus/0/cores, operator: NotIn, values: [1, 2.5] }",
        "{ key: otelCollector, operator: In, values: [true] }",
        "{ key: a~1b~0c, operator: Exists }",
        "{ key: vendor, operator: DoesNotExist }",
        "{ key: cores, operator: Gt, values: [1] }",
        "{ key: cores, operator: Lt, values: [0.5] }",
        "{ key: cpus, operator: ContainsAll, itemSelector: { matchExpressions: [{ key: cores, operator: Exists }] } }",
        "{ key: cpus, operator: ContainsAny, itemSelector: { matchExpressions: [{ key: cores, operator: Exists }] } }",
    ] {
        parsed(&property(good));
    }
    let items = "itemSelector: { matchExpressions: [{ key: a, operator: Exists }] }";
    for (bad, field) in [
        ("{ key: '', operator: Exists }", "key"),
        ("{ key: /, operator: Exists }", "key"),
        ("{ key: a~2, operator: Exists }", "key"),
        ("{ key: a~, operator: Exists }", "key"),
        ("{ key: a, operator: In }", "values"),
        ("{ key: a, operator: In, values: [] }", "values"),
        ("{ key: a, operator: In, values: [a, 1] }", "values"),
        ("{ key: a, operator: NotIn, values: [true, false] }", "values"),
        ("{ key: a, operator: NotIn, values: [[a]] }", "values"),
        ("{ key: a, operator: Exists, values: [a] }", "values"),
        ("{ key: a, operator: DoesNotExist, values: [] }", "values"),
        ("{ key: a, operator: Gt }", "values"),
        ("{ key: a, operator: Gt, values: [1, 2] }", "values"),
        ("{ key: a, operator: Lt, values: ['1'] }", "values"),
        (&format!("{{ key: a, operator: ContainsAll, values: [a], {items} }}"), "values"),
        ("{ key: a, operator: ContainsAll }", "itemSelector"),
        (&format!("{{ key: a, operator: In, values: [a], {items} }}"), "itemSelector"),
        ("{ key: a, operator: ContainsAny, itemSelector: { matchExpressions: [] } }", "itemSelector.matchExpressions"),
        (
            "{ key: a, operator: ContainsAny, itemSelector: { matchExpressions: [{ key: b, operator: In }] } }",
            "itemSelector.matchExpressions[0].values",
        ),
    ] {
        let error = ApplicationDescription::parse(property(bad).as_bytes(), "margo.yaml").unwrap_err();
        let rules = "deploymentProfiles[0].deviceConstraints.eligibilityRules";
        let expected = format!("{rules}[0].propertySelector.matchExpressions[0].{field}");
        assert_eq!(fields(&error), [expected], "{bad}: {error}");
    }
    // The name of a label is no pointer.
    parsed(&with("[{ labelSelector: { matchExpressions: [{ key: a~b, operator: Exists }] } }]"));
    for (bad, field) in
        [("[{}]", "eligibilityRules[0]"), ("[{ labelSelector: { matchExpressions: [] } }]", "matchExpressions")]
    {
        let error = ApplicationDescription::parse(with(bad).as_bytes(), "margo.yaml").unwrap_err();
        assert!(fields(&error)[0].ends_with(field), "{bad}: {error}");
    }
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
        let field =
            "margo.yaml:14:21: deploymentProfiles[0].x-edgewright-extensions.failedUpdate: must be restore or leave";
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
        ApplicationDescription::parse(text.as_bytes(), "margo.yaml").map_err(|errors| fields(&errors).remove(0))
    };
    for memory in ["512Mi", "1024Ki", "1234567890123Ki"] {
        assert!(with(memory, "0.5", "0m1s").is_ok(), "{memory}");
    }
    let (capacities, properties) = (
        "deploymentProfiles[0].deviceConstraints.capacityRequirements",
        "deploymentProfiles[0].components[0].properties",
    );
    for memory in ["1Ti", "1Ei", "0Mi", "000Gi", "512", "512MB", "Mi", "-1Mi", "1.5Gi", "99999999999999999Gi"] {
        assert_eq!(with(memory, "1", "1m0s").unwrap_err(), format!("{capacities}.memory"), "{memory}");
    }
    for cores in ["0", "-1", ".nan", ".inf"] {
        assert_eq!(with("1Ki", cores, "1m0s").unwrap_err(), format!("{capacities}.cpu.cores"), "{cores}");
    }
    assert_eq!(with("1Ki", "1", "0m0s").unwrap_err(), format!("{properties}.timeout"));
}

#[test]
fn storage_is_counted_in_larger_units_than_memory() {
    let with = |storage: &str| {
        let needs =
            format!("    type: custom\n    deviceConstraints: {{ capacityRequirements: {{ storage: {storage} }} }}\n");
        ApplicationDescription::parse(HELLO.replacen("    type: custom\n", &needs, 1).as_bytes(), "margo.yaml")
    };
    for storage in ["1Ki", "2Mi", "3Gi", "4Ti", "5Pi", "6Ei"] {
        with(storage).unwrap();
    }
    for storage in ["1Zi", "1T", "16Ei"] {
        let field = "deploymentProfiles[0].deviceConstraints.capacityRequirements.storage";
        assert_eq!(fields(&with(storage).unwrap_err()), [field], "{storage}");
    }
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
    assert_eq!(broken.iter().next().unwrap().line, 58, "{broken}");
    let old = ApplicationDescription::parse(&read("ApplicationDescription-001-v1-alpha1.yaml"), "001").unwrap_err();
    assert!(old.to_string().contains("apiVersion"), "{old}");
}

fn given<const COUNT: usize>(values: [(&str, ParameterValue); COUNT]) -> BTreeMap<String, ParameterValue> {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn parsed(text: &str) -> ApplicationDescription {
    ApplicationDescription::parse(text.as_bytes(), "margo.yaml").unwrap()
}

fn check(
    description: &ApplicationDescription,
    given: &BTreeMap<String, ParameterValue>,
) -> Result<BTreeMap<String, ParameterValue>, Vec<(String, ParameterError)>> {
    check_parameters(description, description.profiles.first(), given)
}

#[test]
fn wfm_30_parameters_are_checked_for_presence_and_data_type() {
    let description = hello();
    let in_force = check(&description, &BTreeMap::new()).unwrap();
    assert_eq!(in_force["greeting"], ParameterValue::Text("Hello".into()));

    let errors = check(&description, &given([("greeting", ParameterValue::Integer(7))])).unwrap_err();
    assert_eq!(errors, [("greeting".to_owned(), ParameterError::Type(DataType::Text))]);

    let errors = check(&description, &given([("colour", ParameterValue::Text("red".into()))])).unwrap_err();
    assert_eq!(errors, [("colour".to_owned(), ParameterError::Unknown("greeting".into()))]);

    let without_default = parsed(&HELLO.replace("    value: Hello\n", ""));
    let errors = check(&without_default, &BTreeMap::new()).unwrap_err();
    assert_eq!(errors, [("greeting".to_owned(), ParameterError::Missing)]);
}

/// A description of two profiles, each with a parameter of its own and no default.
fn two_profiles() -> String {
    let second = "  - id: compose
    type: compose
    components:
      - name: other
        properties:
          repository: oci://edgewright.local/other
          revision: 1.0.0
parameters:
  colour:
    targets:
      - pointer: COLOUR
        components: [other]
";
    HELLO.replace("parameters:\n", second).replace("    value: Hello\n", "")
}

#[test]
fn wfm_30_a_parameter_is_demanded_where_a_component_of_the_profile_gets_it() {
    let description = parsed(&two_profiles());
    let missing = |profile| {
        let checked = check_parameters(&description, description.profile(profile), &BTreeMap::new());
        checked.unwrap_err().into_iter().map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(missing("wasm"), ["greeting"]);
    assert_eq!(missing("compose"), ["colour"]);
}

#[test]
fn wfm_30_a_parameter_that_may_be_empty_is_optional() {
    let description = parsed(
        &HELLO
            .replace("    value: Hello\n", "")
            .replace("dataType: string", "dataType: string\n      allowEmpty: true"),
    );
    assert!(check(&description, &BTreeMap::new()).unwrap().is_empty());
    let empty = given([("greeting", ParameterValue::Text(String::new()))]);
    assert_eq!(check(&description, &empty).unwrap(), empty);
}

#[test]
fn wfm_30_all_faults_of_all_parameters_are_told_at_once() {
    let schema = "dataType: string\n      maxLength: 5\n      regexMatch: ^H";
    let description = parsed(&HELLO.replace("dataType: string", schema));
    let faulty =
        given([("greeting", ParameterValue::Text("Good morning".into())), ("colour", ParameterValue::Integer(1))]);
    let errors = check(&description, &faulty).unwrap_err();
    let expected = [
        ("colour".to_owned(), ParameterError::Unknown("greeting".into())),
        ("greeting".to_owned(), ParameterError::TooLong(5)),
        ("greeting".to_owned(), ParameterError::Pattern("^H".into())),
    ];
    assert_eq!(errors, expected);
}

#[test]
fn wfm_30_a_default_follows_its_own_rules() {
    let error = refusal("dataType: string", "dataType: string\n      maxLength: 4");
    assert_eq!(error, "margo.yaml:24:12: parameters.greeting.value: must have at most 4 characters");
    refusal("dataType: string", "dataType: integer");
    let error = refusal("dataType: string", "dataType: string\n      minValue: 4");
    assert!(error.starts_with("margo.yaml:38:17: configuration.schema[0].minValue: "), "{error}");
    let error = refusal("    - name: text\n", "    - name: text\n      dataType: string\n    - name: text\n");
    assert!(error.starts_with("margo.yaml:38:13: configuration.schema[1].name: "), "{error}");
}

#[test]
fn rules_for_values_have_a_number_that_is_checked_in_no_time() {
    let schemas =
        |count: usize| (0..count).map(|at| format!("    - {{ name: s{at}, dataType: string }}\n")).collect::<String>();
    let with = |count| HELLO.replace("  schema:\n", &format!("  schema:\n{}", schemas(count)));
    parsed(&with(MAX_SCHEMAS - 1));
    let error = ApplicationDescription::parse(with(MAX_SCHEMAS).as_bytes(), "margo.yaml").unwrap_err();
    assert_eq!(fields(&error), ["configuration.schema"]);
    let again = "        - { parameter: greeting, name: Again, schema: text }\n";
    let shown =
        |times: usize| HELLO.replace("      settings:\n", &format!("      settings:\n{}", again.repeat(times - 1)));
    parsed(&shown(MAX_SHOWN));
    let error = ApplicationDescription::parse(shown(MAX_SHOWN + 5).as_bytes(), "margo.yaml").unwrap_err();
    assert_eq!(fields(&error), [format!("configuration.sections[0].settings[{MAX_SHOWN}].parameter")]);
}

#[test]
fn wfm_30_what_is_immutable_stays_through_updates() {
    let immutable =
        parsed(&HELLO.replace("          schema: text", "          schema: text\n          immutable: true"));
    let changes = |before: &ApplicationDescription, held, after: &ApplicationDescription, wanted| {
        immutable_changes((before, &given(held)), (after, &check(after, &given(wanted)).unwrap()))
    };
    let [hello_value, other] = ["Hello", "Other"].map(|value| [("greeting", ParameterValue::Text(value.into()))]);
    let refused = |value: &str| vec![("greeting".to_owned(), ParameterError::Immutable(format!("{value:?}")))];
    assert_eq!(changes(&immutable, other.clone(), &immutable, other.clone()), []);
    assert_eq!(changes(&immutable, other.clone(), &immutable, hello_value), refused("Other"));
    let with_default = |default: &str| ApplicationDescription {
        parameters: immutable
            .parameters
            .iter()
            .map(|(name, parameter)| {
                let value = Some(ParameterValue::Text(default.into()));
                (name.clone(), DescribedParameter { value, ..parameter.clone() })
            })
            .collect(),
        ..immutable.clone()
    };
    let empty = |before: &ApplicationDescription, after: &ApplicationDescription| {
        immutable_changes((before, &BTreeMap::new()), (after, &check(after, &BTreeMap::new()).unwrap()))
    };
    // Nobody set it, and another version of the package has another default.
    assert_eq!(empty(&immutable, &with_default("New")), refused("Hello"));
    assert_eq!(empty(&hello(), &with_default("Hello")), []);
    // A version before did not have the parameter.
    let before = ApplicationDescription { parameters: BTreeMap::new(), ..hello() };
    assert_eq!(empty(&before, &immutable), []);
}
