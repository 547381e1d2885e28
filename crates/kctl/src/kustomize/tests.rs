use std::fs;

use serde_json::json;

use super::*;

struct Tree(tempfile::TempDir);

impl Tree {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    fn build(&self, folder: &str) -> Vec<Value> {
        build(&self.0.path().join(folder)).unwrap_or_else(|error| panic!("{error:#}"))
    }

    fn fails(&self, folder: &str) -> String {
        format!("{:#}", build(&self.0.path().join(folder)).unwrap_err())
    }
}

fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    objects.iter().find(|object| object["kind"] == kind).unwrap_or_else(|| panic!("no {kind} in {objects:?}"))
}

const BASE: &str = "resources: [web.yaml]\nconfigMapGenerator:\n- name: settings\n  literals: [colour=blue]\n";
const WEB: &str = "apiVersion: v1
kind: ReplicationController
metadata: {name: web}
spec:
  replicas: 1
  selector: {app: web}
  template:
    metadata: {labels: {app: web}}
    spec:
      serviceAccountName: runner
      containers:
      - name: app
        image: web:1
        envFrom: [{configMapRef: {name: settings}}]
      - name: helper
        image: helper:1
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: runner}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: runner}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: [{kind: ServiceAccount, name: runner, namespace: default}]
";

#[test]
fn hashes_are_upstreams() {
    assert_eq!(generate::hash(&json!({"kind": "ConfigMap"})), "6ct58987ht");
    assert_eq!(generate::hash(&json!({"kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"one": ""}})), "9g67k2htb6");
    assert_eq!(generate::hash(&json!({"kind": "Secret", "type": "my-type"})), "5gmgkf8578");
    assert_eq!(generate::hash(&json!({"kind": "Secret", "type": "my-type", "data": {"one": ""}})), "74bd68bm66");
}

#[test]
fn an_overlay_renames_labels_and_patches_its_base() {
    let overlay = "resources: [../base]
namespace: shop
namePrefix: pre-
nameSuffix: -x
commonLabels: {team: a}
commonAnnotations: {note: text}
images: [{name: web, newName: registry/web, newTag: 2}]
replicas: [{name: web, count: 3}]
configMapGenerator:
- name: settings
  behavior: merge
  literals: [size=7]
patches:
- path: patch.yaml
- target: {kind: Service, name: w.*}
  patch: |
    - {op: replace, path: /spec/ports/0/port, value: 8080}
";
    let patch = "apiVersion: v1\nkind: ReplicationController\nmetadata: {name: web}\nspec:\n  template:\n    spec:\n      containers:\n      \
                 - {name: app, workingDir: /srv}\n";
    let base = BASE.replace("web.yaml", "web.yaml, binding.yaml");
    let (web, binding) = WEB.rsplit_once("---\n").unwrap();
    let binding = binding.replace(", namespace: default", "");
    let tree = Tree::new(&[
        ("base/kustomization.yaml", &base),
        ("base/web.yaml", web),
        ("base/binding.yaml", &binding),
        ("overlay/kustomization.yaml", overlay),
        ("overlay/patch.yaml", patch),
    ]);
    let objects = tree.build("overlay");
    let rc = find(&objects, "ReplicationController");
    assert_eq!((&rc["metadata"]["name"], &rc["metadata"]["namespace"]), (&json!("pre-web-x"), &json!("shop")));
    assert_eq!((&rc["spec"]["replicas"], &rc["spec"]["selector"]), (&json!(3), &json!({"app": "web", "team": "a"})));
    assert_eq!(
        rc["spec"]["template"]["metadata"],
        json!({"labels": {"app": "web", "team": "a"}, "annotations": {"note": "text"}})
    );
    let pod = &rc["spec"]["template"]["spec"];
    assert_eq!((&pod["containers"][0]["image"], &pod["containers"][0]["workingDir"]), (&json!("registry/web:2"), &json!("/srv")));
    assert_eq!((&pod["containers"][1]["image"], &pod["serviceAccountName"]), (&json!("helper:1"), &json!("pre-runner-x")));
    let map = find(&objects, "ConfigMap");
    let name = map["metadata"]["name"].as_str().unwrap();
    assert_eq!(name, format!("pre-settings-x-{}", generate::hash(map)));
    assert_eq!(pod["containers"][0]["envFrom"][0]["configMapRef"]["name"], name);
    assert_eq!(map["data"], json!({"colour": "blue", "size": "7"}));
    assert_eq!(find(&objects, "Service")["spec"]["ports"][0]["port"], 8080);
    let subject = json!({"kind": "ServiceAccount", "name": "pre-runner-x", "namespace": "shop"});
    assert_eq!(find(&objects, "RoleBinding")["subjects"][0], subject);
    // Service accounts come before what runs as them.
    assert_eq!(objects[0]["kind"], "ServiceAccount");
}

#[test]
fn one_base_is_used_twice_and_a_component_changes_both() {
    let tree = Tree::new(&[
        ("base/kustomization.yaml", BASE),
        ("base/web.yaml", WEB.split("---").next().unwrap()),
        ("a/kustomization.yaml", "resources: [../base]\nnamePrefix: a-\n"),
        ("b/kustomization.yaml", "bases: [../base]\nnamePrefix: b-\n"),
        (
            "extra/kustomization.yaml",
            "kind: Component\napiVersion: kustomize.config.k8s.io/v1alpha1\nlabels: [{pairs: {x: z}}]\n",
        ),
        ("all/kustomization.yaml", "resources: [../a, ../b]\ncomponents: [../extra]\nsortOptions: {order: fifo}\n"),
    ]);
    let objects = tree.build("all");
    let names: Vec<_> = objects.iter().map(|object| object["metadata"]["name"].as_str().unwrap()).collect();
    let hash = generate::hash(&objects[1]);
    assert_eq!(names, ["a-web", &format!("a-settings-{hash}"), "b-web", &format!("b-settings-{hash}")]);
    let used = |at: usize| &objects[at]["spec"]["template"]["spec"]["containers"][0]["envFrom"][0]["configMapRef"]["name"];
    assert_eq!((used(0), used(2)), (&json!(names[1]), &json!(names[3])));
    assert!(objects.iter().all(|object| object["metadata"]["labels"]["x"] == "z"));
    assert!(objects[0]["spec"]["selector"].get("x").is_none());
}

#[test]
fn generators_read_files_literals_and_variables() {
    let tree = Tree::new(&[
        (
            "kustomization.yaml",
            "generatorOptions: {disableNameSuffixHash: true, labels: {made: here}}\nconfigMapGenerator:\n- name: m\n  files: [a.txt, key=b.bin]\n  \
             envs: [vars.env]\n  literals: ['q=\"quoted\"']\nsecretGenerator:\n- {name: s, type: my/type, literals: [k=v], options: {immutable: true}}\n",
        ),
        ("a.txt", "text"),
        ("vars.env", "# comment\nA=1\nB=x=y\n"),
    ]);
    fs::write(tree.0.path().join("b.bin"), [0xff, 0]).unwrap();
    let objects = tree.build("");
    let map = find(&objects, "ConfigMap");
    assert_eq!(map["data"], json!({"A": "1", "B": "x=y", "a.txt": "text", "q": "quoted"}));
    assert_eq!(
        (&map["binaryData"], &map["metadata"]),
        (&json!({"key": "/wA="}), &json!({"name": "m", "labels": {"made": "here"}}))
    );
    let secret = find(&objects, "Secret");
    assert_eq!((&secret["data"]["k"], &secret["type"], &secret["immutable"]), (&json!("dg=="), &json!("my/type"), &json!(true)));
}

#[test]
fn patches_of_every_form() {
    let tree = Tree::new(&[
        (
            "kustomization.yaml",
            "resources: [web.yaml]\npatchesStrategicMerge:\n- |\n  apiVersion: v1\n  kind: Service\n  metadata: {name: web}\n  $patch: delete\n- \
             merge.yaml\npatchesJson6902:\n- target: {version: v1, kind: ReplicationController, name: web}\n  path: change.json\n",
        ),
        ("web.yaml", WEB),
        ("merge.yaml", "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: runner, labels: {a: b}}\n"),
        ("change.json", r#"[{"op": "replace", "path": "/spec/replicas", "value": 5}]"#),
    ]);
    let objects = tree.build("");
    assert!(objects.iter().all(|object| object["kind"] != "Service"));
    assert_eq!(find(&objects, "ServiceAccount")["metadata"]["labels"]["a"], "b");
    assert_eq!(find(&objects, "ReplicationController")["spec"]["replicas"], 5);
}

#[test]
fn what_is_not_supported_or_wrong_is_named() {
    for (kustomization, wanted) in [
        ("helmCharts: []", "the field \"helmCharts\" is not supported: render the chart first"),
        ("vars: [{}]", "the field \"vars\" is not supported"),
        ("frob: 1", "unknown field `frob`"),
        ("resources: [nowhere.yaml]", "cannot read"),
        ("resources: ['https://example.org/x.yaml']", "not fetched from elsewhere"),
        ("resources: [../out.yaml]", "security; file"),
        ("resources: [.]", "cycle detected"),
        ("resources: [web.yaml, web.yaml]", "already registered id"),
        ("replicas: [{name: x, count: 1}]", "resource with name x"),
        ("patches: [{patch: '{kind: Pod, apiVersion: v1, metadata: {name: x}}'}]", "no matches for Id Pod x"),
        ("patches: [{}]", "must specify one of patch and path"),
        ("configMapGenerator: [{name: x, behavior: merge}]", "there is no ConfigMap x to merge"),
        ("configMapGenerator: [{name: x, literals: [a=1, a=2]}]", "given twice"),
        ("components: [sub]", "Component is wanted here"),
    ] {
        let tree = Tree::new(&[
            ("in/kustomization.yaml", kustomization),
            ("in/web.yaml", WEB),
            ("out.yaml", WEB),
            ("in/sub/kustomization.yaml", "kind: Kustomization"),
        ]);
        let error = tree.fails("in");
        assert!(error.contains(wanted), "{kustomization}: {error}");
    }
    assert!(Tree::new(&[("a/x.yaml", "")]).fails("a").contains("unable to find one of 'kustomization.yaml'"));
}
