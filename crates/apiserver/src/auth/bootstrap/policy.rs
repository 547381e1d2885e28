//! The default roles and bindings, as data. Names and contents are upstream's for the kinds that there are; where ours differ, it says so.

use api::{
    meta::v1::{LabelSelector, ObjectMeta},
    names::SYSTEM_NAMESPACE as SYSTEM,
    rbac::v1::{AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
};

use crate::auth::{AUTHENTICATED, MASTERS, UNAUTHENTICATED};

const RBAC: &str = "rbac.authorization.k8s.io";

const READ: &str = "get list watch";
const WRITE: &str = "create update patch delete deletecollection";
const READ_WRITE: &str = "get list watch create update patch delete deletecollection";

const SCHEDULER: &str = "system:kube-scheduler";
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";
const PROXY: &str = "system:kube-proxy";

/// A rule on resources, each list split at spaces; the groups split at commas, so that the core group can be among them.
fn on(verbs: &str, groups: &str, resources: &str) -> PolicyRule {
    PolicyRule {
        verbs: words(verbs),
        api_groups: groups.split(',').map(str::to_owned).collect(),
        resources: words(resources),
        ..PolicyRule::default()
    }
}

/// A rule on objects of these names.
fn named(verbs: &str, group: &str, resources: &str, names: &str) -> PolicyRule {
    PolicyRule { resource_names: words(names), ..on(verbs, group, resources) }
}

/// A rule on URL paths.
fn paths(verbs: &str, paths: &str) -> PolicyRule {
    PolicyRule { verbs: words(verbs), non_resource_urls: words(paths), ..PolicyRule::default() }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn events() -> PolicyRule {
    on("create patch update", ",events.k8s.io", "events")
}

fn cluster_role(name: &str, rules: Vec<PolicyRule>) -> ClusterRole {
    ClusterRole { metadata: Some(meta("", name)), rules, ..ClusterRole::default() }
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: namespace.to_owned(), name: name.to_owned(), ..ObjectMeta::default() }
}

fn aggregate_label(to: &str) -> String {
    format!("{RBAC}/aggregate-to-{to}")
}

/// A cluster role that counts as a part of others.
fn part_of(to: &[&str], mut role: ClusterRole) -> ClusterRole {
    role.metadata_mut().labels = to.iter().map(|to| (aggregate_label(to), "true".to_owned())).collect();
    role
}

/// A cluster role made of those that carry its label.
fn made_of(name: &str) -> ClusterRole {
    let selector =
        LabelSelector { match_labels: [(aggregate_label(name), "true".to_owned())].into(), ..LabelSelector::default() };
    ClusterRole {
        aggregation_rule: Some(AggregationRule { cluster_role_selectors: vec![selector] }),
        ..cluster_role(name, Vec::new())
    }
}

/// All default cluster roles.
pub(super) fn cluster_roles() -> Vec<ClusterRole> {
    let mut roles = for_people();
    roles.extend(for_components());
    roles.extend(for_controllers().into_iter().map(|(name, rules)| cluster_role(&controller(name), rules)));
    roles
}

fn for_people() -> Vec<ClusterRole> {
    let health = "/healthz /livez /readyz /version /version/";
    vec![
        cluster_role("cluster-admin", vec![on("*", "*", "*"), paths("*", "*")]),
        cluster_role("system:discovery", vec![paths("get", &format!("{health} /api /api/* /apis /apis/* /openapi /openapi/*"))]),
        cluster_role(
            "system:basic-user",
            vec![
                on("create", "authorization.k8s.io", "selfsubjectaccessreviews selfsubjectrulesreviews"),
                on("create", "authentication.k8s.io", "selfsubjectreviews"),
            ],
        ),
        cluster_role("system:public-info-viewer", vec![paths("get", health)]),
        cluster_role(
            "system:monitoring",
            vec![paths("get", "/healthz /healthz/* /livez /livez/* /readyz /readyz/* /metrics /metrics/slis")],
        ),
        made_of("admin"),
        part_of(&["admin"], made_of("edit")),
        part_of(&["edit"], made_of("view")),
        part_of(&["admin"], cluster_role("system:aggregate-to-admin", admin_rules())),
        part_of(&["edit"], cluster_role("system:aggregate-to-edit", edit_rules())),
        part_of(&["view"], cluster_role("system:aggregate-to-view", view_rules())),
        part_of(
            &["admin", "edit", "view"],
            cluster_role("system:aggregated-metrics-reader", vec![on(READ, "metrics.k8s.io", "pods nodes")]),
        ),
    ]
}

fn admin_rules() -> Vec<PolicyRule> {
    vec![on("create", "authorization.k8s.io", "localsubjectaccessreviews"), on(READ_WRITE, RBAC, "roles rolebindings")]
}

fn edit_rules() -> Vec<PolicyRule> {
    vec![
        on(READ, "", "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy"),
        on("impersonate", "", "serviceaccounts"),
        on(WRITE, "", "pods pods/attach pods/exec pods/portforward pods/proxy"),
        on("create", "", "pods/eviction serviceaccounts/token"),
        on(
            WRITE,
            "",
            "configmaps events persistentvolumeclaims replicationcontrollers replicationcontrollers/scale secrets \
             serviceaccounts services services/proxy",
        ),
        on(
            WRITE,
            "apps",
            "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets \
             statefulsets/scale",
        ),
        on(WRITE, "autoscaling", "horizontalpodautoscalers"),
        on(WRITE, "batch", "cronjobs jobs"),
        on(WRITE, "policy", "poddisruptionbudgets"),
        on(WRITE, "networking.k8s.io", "ingresses networkpolicies"),
        on(READ_WRITE, "coordination.k8s.io", "leases"),
    ]
}

fn view_rules() -> Vec<PolicyRule> {
    vec![
        on(
            READ,
            "",
            "configmaps endpoints persistentvolumeclaims persistentvolumeclaims/status pods replicationcontrollers \
             replicationcontrollers/scale serviceaccounts services services/status",
        ),
        on(
            READ,
            "",
            "bindings events limitranges namespaces/status pods/log pods/status replicationcontrollers/status resourcequotas \
             resourcequotas/status",
        ),
        on(READ, "", "namespaces"),
        // Not in upstream's role: templates hold nothing that pods do not show.
        on(READ, "", "podtemplates"),
        on(READ, "discovery.k8s.io", "endpointslices"),
        on(
            READ,
            "apps",
            "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets \
             replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
        ),
        on(READ, "autoscaling", "horizontalpodautoscalers horizontalpodautoscalers/status"),
        on(READ, "batch", "cronjobs cronjobs/status jobs jobs/status"),
        on(READ, "policy", "poddisruptionbudgets poddisruptionbudgets/status"),
        on(READ, "networking.k8s.io", "ingresses ingresses/status networkpolicies"),
    ]
}

fn for_components() -> Vec<ClusterRole> {
    let delegation =
        || [on("create", "authentication.k8s.io", "tokenreviews"), on("create", "authorization.k8s.io", "subjectaccessreviews")];
    let mut scheduler = vec![
        events(),
        on("create", "coordination.k8s.io", "leases"),
        named("get list update watch", "coordination.k8s.io", "leases", "kube-scheduler"),
        on(READ, "", "nodes"),
        on("delete get list watch", "", "pods"),
        on("create", "", "bindings pods/binding"),
        on("patch update", "", "pods/status"),
        on(READ, "", "namespaces persistentvolumeclaims persistentvolumes replicationcontrollers services"),
        on(READ, "apps", "replicasets statefulsets"),
        on(READ, "policy", "poddisruptionbudgets"),
    ];
    scheduler.extend(delegation());
    let mut controller_manager = vec![
        events(),
        on("create", "coordination.k8s.io", "leases"),
        named("get list update watch", "coordination.k8s.io", "leases", "kube-controller-manager"),
        // Informers over every kind: the garbage collector and quota look at all of them.
        on("list watch", "*", "*"),
        on("get create update", "", "secrets serviceaccounts"),
        on("create", "", "serviceaccounts/token"),
    ];
    controller_manager.extend(delegation());
    vec![
        cluster_role("system:auth-delegator", delegation().into()),
        cluster_role(SCHEDULER, scheduler),
        cluster_role(CONTROLLER_MANAGER, controller_manager),
        cluster_role(
            "system:node-proxier",
            vec![
                on("list watch", "", "endpoints services"),
                on(READ, "", "nodes"),
                events(),
                on("list watch", "discovery.k8s.io", "endpointslices"),
            ],
        ),
        // Bound to nobody: kubelets get their permissions from the node authoriser.
        cluster_role(
            "system:node",
            vec![
                on("create", "authentication.k8s.io", "tokenreviews"),
                on("create", "authorization.k8s.io", "localsubjectaccessreviews subjectaccessreviews"),
                on(READ, "", "services"),
                on("create get list patch update watch", "", "nodes"),
                on("patch update", "", "nodes/status pods/status"),
                events(),
                on("create delete get list watch", "", "pods"),
                on("create", "", "pods/eviction serviceaccounts/token"),
                on(READ, "", "configmaps secrets"),
                on("get", "", "persistentvolumeclaims persistentvolumes"),
                on("create delete get patch update", "coordination.k8s.io", "leases"),
            ],
        ),
        // Ours: the pod network is a part of the kubelet, which routes to the pod CIDRs of all other nodes.
        cluster_role("ferrokube:node-routes", vec![on(READ, "", "nodes")]),
        cluster_role(
            "system:service-account-issuer-discovery",
            vec![paths(
                "get",
                "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
            )],
        ),
    ]
}

/// The controllers and what each needs. All run as one user, see [`cluster_role_bindings`].
fn for_controllers() -> Vec<(&'static str, Vec<PolicyRule>)> {
    vec![
        (
            "node-controller",
            vec![
                events(),
                on("get list watch delete patch update", "", "nodes"),
                on("patch update", "", "nodes/status pods/status"),
                on("get list watch delete", "", "pods"),
                on(READ, "coordination.k8s.io", "leases"),
            ],
        ),
        (
            "replication-controller",
            vec![
                events(),
                on("get list patch update watch", "", "replicationcontrollers"),
                on("update patch", "", "replicationcontrollers/finalizers replicationcontrollers/status"),
                on("create delete list patch watch", "", "pods"),
            ],
        ),
        (
            "endpoint-controller",
            vec![
                events(),
                on(READ, "", "pods services"),
                on("create delete get list update patch watch", "", "endpoints"),
                on("create", "", "endpoints/restricted"),
            ],
        ),
        (
            "endpointslice-controller",
            vec![
                events(),
                on(READ, "", "nodes pods services"),
                on("update", "", "services/finalizers"),
                on("create delete get list update patch watch", "discovery.k8s.io", "endpointslices"),
                on("create", "discovery.k8s.io", "endpointslices/restricted"),
            ],
        ),
        (
            "namespace-controller",
            vec![
                on("delete get list watch", "", "namespaces"),
                on("update patch", "", "namespaces/finalize namespaces/status"),
                on("delete deletecollection get list", "*", "*"),
            ],
        ),
        (
            "service-account-controller",
            vec![events(), on("create", "", "serviceaccounts"), on(READ, "", "namespaces serviceaccounts")],
        ),
        ("root-ca-cert-publisher", vec![events(), on("create update", "", "configmaps"), on(READ, "", "configmaps namespaces")]),
        ("resourcequota-controller", vec![events(), on("list watch", "*", "*"), on("update patch", "", "resourcequotas/status")]),
        ("generic-garbage-collector", vec![events(), on("delete get list patch update watch", "*", "*")]),
        (
            "pod-garbage-collector",
            vec![on("delete list watch", "", "pods"), on("get list", "", "nodes"), on("patch update", "", "pods/status")],
        ),
    ]
}

fn controller(name: &str) -> String {
    format!("system:controller:{name}")
}

fn user(name: &str) -> Subject {
    Subject { kind: "User".to_owned(), api_group: RBAC.to_owned(), name: name.to_owned(), ..Subject::default() }
}

fn group(name: &str) -> Subject {
    Subject { kind: "Group".to_owned(), ..user(name) }
}

fn service_account(namespace: &str, name: &str) -> Subject {
    Subject { kind: "ServiceAccount".to_owned(), namespace: namespace.to_owned(), name: name.to_owned(), ..Subject::default() }
}

fn role_ref(kind: &str, name: &str) -> Option<RoleRef> {
    Some(RoleRef { api_group: RBAC.to_owned(), kind: kind.to_owned(), name: name.to_owned() })
}

/// All default cluster role bindings.
pub(super) fn cluster_role_bindings() -> Vec<ClusterRoleBinding> {
    let bind = |role: &str, subjects: Vec<Subject>| ClusterRoleBinding {
        metadata: Some(meta("", role)),
        subjects,
        role_ref: role_ref("ClusterRole", role),
    };
    let mut bindings = vec![
        bind("cluster-admin", vec![group(MASTERS)]),
        bind("system:discovery", vec![group(AUTHENTICATED)]),
        bind("system:basic-user", vec![group(AUTHENTICATED)]),
        bind("system:public-info-viewer", vec![group(AUTHENTICATED), group(UNAUTHENTICATED)]),
        bind("system:monitoring", vec![group("system:monitoring")]),
        bind(SCHEDULER, vec![user(SCHEDULER)]),
        bind(CONTROLLER_MANAGER, vec![user(CONTROLLER_MANAGER)]),
        bind("system:node-proxier", vec![user(PROXY)]),
        bind("system:node", vec![]),
        bind("ferrokube:node-routes", vec![group("system:nodes")]),
        bind("system:service-account-issuer-discovery", vec![group("system:serviceaccounts")]),
    ];
    for (name, _) in for_controllers() {
        // Upstream runs each controller as its own service account; ours are one process with one identity.
        bindings.push(bind(&controller(name), vec![service_account(SYSTEM, name), user(CONTROLLER_MANAGER)]));
    }
    bindings
}

/// The leader's Lease of a component, held under the component's name.
const LEADERS: &[(&str, &str)] = &[("kube-controller-manager", CONTROLLER_MANAGER), ("kube-scheduler", SCHEDULER)];

/// All default roles of namespaces.
pub(super) fn roles() -> Vec<Role> {
    let role = |namespace, name: &str, rules| Role { metadata: Some(meta(namespace, name)), rules };
    let mut roles = vec![role(
        SYSTEM,
        "extension-apiserver-authentication-reader",
        vec![named(READ, "", "configmaps", "extension-apiserver-authentication")],
    )];
    for (component, _) in LEADERS {
        let rules = vec![
            on("create watch", "coordination.k8s.io", "leases"),
            named("get update patch", "coordination.k8s.io", "leases", component),
        ];
        roles.push(role(SYSTEM, &format!("system::leader-locking-{component}"), rules));
    }
    roles
}

/// All default role bindings of namespaces.
pub(super) fn role_bindings() -> Vec<RoleBinding> {
    let bind =
        |name: &str, subjects| RoleBinding { metadata: Some(meta(SYSTEM, name)), subjects, role_ref: role_ref("Role", name) };
    let mut bindings = vec![bind("extension-apiserver-authentication-reader", vec![user(CONTROLLER_MANAGER), user(SCHEDULER)])];
    for (component, name) in LEADERS {
        bindings.push(bind(&format!("system::leader-locking-{component}"), vec![user(name), service_account(SYSTEM, component)]));
    }
    bindings
}
