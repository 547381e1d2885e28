use api::core::v1::{ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus};

use super::*;
use crate::{strategies::testing, subresource};

/// A pod of one container that has what is given besides.
fn pod(container: &str, spec: &str) -> Pod {
    let text = format!(
        r#"{{"metadata": {{"name": "web"}}, "spec": {{{spec} "containers": [{{{container} "name": "main", "image": "web:1"}}]}}}}"#
    );
    testing::created(PodStrategy, testing::json(&text))
}

fn container(container: &str) -> Vec<String> {
    testing::errors(&PodStrategy, &pod(container, ""))
}

fn spec(spec: &str) -> Vec<String> {
    testing::errors(&PodStrategy, &pod("", spec))
}

/// The pod changed, and what is wrong with that.
fn change(old: &Pod, change: impl FnOnce(&mut api::core::v1::PodSpec)) -> Vec<String> {
    let mut new = old.clone();
    change(new.spec_mut());
    testing::update_errors(&PodStrategy, "", &testing::updated(&PodStrategy, new, old), old)
}

#[test]
fn a_new_pod_is_pending_and_has_its_defaults() {
    let pod = pod(r#""resources": {"limits": {"cpu": "1"}},"#, r#""volumes": [{"name": "v"}],"#);
    let spec = pod.spec();
    assert_eq!((pod.status().phase.as_str(), pod.status().qos_class.as_str()), ("Pending", "Burstable"));
    assert_eq!(spec.containers[0].image_pull_policy, "IfNotPresent");
    assert_eq!(spec.containers[0].resources().requests, spec.containers[0].resources().limits);
    assert!(spec.volumes[0].volume_source().empty_dir.is_some());
    assert!(spec.security_context.is_some());
    assert_eq!(testing::errors(&PodStrategy, &pod), [""; 0]);
}

#[test]
fn the_quality_of_service_follows_from_requests_and_limits() {
    for (resources, class) in [
        ("{}", "BestEffort"),
        (r#"{"requests": {"cpu": "0"}}"#, "BestEffort"),
        (r#"{"requests": {"cpu": "1"}}"#, "Burstable"),
        (r#"{"limits": {"cpu": "1", "memory": "1Gi"}}"#, "Guaranteed"),
        (r#"{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"memory": "1024Mi", "cpu": "1000m"}}"#, "Guaranteed"),
        (r#"{"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}"#, "Burstable"),
    ] {
        let pod = pod(&format!(r#""resources": {resources},"#), "");
        assert_eq!(pod.status().qos_class, class, "{resources}");
    }
}

#[test]
fn ports_of_the_nodes_network_are_the_nodes_ports() {
    let pod = pod(r#""ports": [{"containerPort": 80}],"#, r#""hostNetwork": true,"#);
    assert_eq!(pod.spec().containers[0].ports[0].host_port, 80);
    let found = testing::errors(&PodStrategy, &{
        let mut pod = pod.clone();
        pod.spec_mut().containers[0].ports[0].host_port = 81;
        pod
    });
    assert!(found[0].ends_with("must match `hostPort` when `hostNetwork` is true"), "{found:?}");
}

#[test]
fn names_of_containers_and_ports_and_host_ports_are_unique() {
    let found = container(
        r#""ports": [{"containerPort": 1, "name": "a", "hostPort": 1}, {"containerPort": 2, "name": "a", "hostPort": 1}],"#,
    );
    assert_eq!(
        found,
        [
            r#"spec.containers[0].ports[1].name: Duplicate value: "a""#,
            r#"spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//1""#
        ]
    );
    let found = spec(r#""initContainers": [{"name": "main", "image": "a"}],"#);
    assert_eq!(found, [r#"spec.initContainers[0].name: Duplicate value: "main""#]);
}

#[test]
fn a_request_is_not_above_its_limit() {
    let found = container(r#""resources": {"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}},"#);
    assert_eq!(
        found,
        [r#"spec.containers[0].resources.requests: Invalid value: "2Gi": must be less than or equal to memory limit of 1Gi"#]
    );
    let found = container(r#""resources": {"limits": {"ram": "1"}},"#);
    assert!(
        found[0].starts_with(r#"spec.containers[0].resources.limits[ram]: Invalid value: "ram": must be a standard"#),
        "{found:?}"
    );
}

#[test]
fn a_variable_has_a_value_or_one_source() {
    let found = container(r#""env": [{"name": "A", "valueFrom": {}}],"#);
    assert!(found[0].starts_with("spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of"), "{found:?}");
    let field = r#"{"fieldPath": "status.podIP"}"#;
    let found = container(&format!(r#""env": [{{"name": "A", "value": "x", "valueFrom": {{"fieldRef": {field}}}}}],"#));
    assert!(found[0].ends_with("may not be specified when `value` is not empty"), "{found:?}");
    let both = format!(r#"{{"fieldRef": {field}, "secretKeyRef": {{"name": "s", "key": "k"}}}}"#);
    let found = container(&format!(r#""env": [{{"name": "A", "valueFrom": {both}}}],"#));
    assert!(found[0].ends_with("may not have more than one field specified at a time"), "{found:?}");
    let good = r#""env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}}],"#;
    assert_eq!(container(good), [""; 0]);
    let found = container(r#""env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}}],"#);
    assert!(found[0].starts_with("spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value"), "{found:?}");
}

#[test]
fn a_mount_is_of_a_volume_of_the_pod_at_a_path_of_its_own() {
    let mounts = r#""volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/a"}],"#;
    let found = testing::errors(&PodStrategy, &pod(mounts, r#""volumes": [{"name": "v"}],"#));
    assert_eq!(found, [r#"spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique"#]);
    let found = container(r#""volumeMounts": [{"name": "nope", "mountPath": "/a"}],"#);
    assert_eq!(found, [r#"spec.containers[0].volumeMounts[0].name: Not found: "nope""#]);
}

#[test]
fn a_volume_has_one_source_and_a_name_of_its_own() {
    let found = spec(r#""volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/a"}}, {"name": "v"}],"#);
    assert_eq!(
        found,
        [
            "spec.volumes[0].emptyDir: Forbidden: may not specify more than 1 volume type",
            r#"spec.volumes[1].name: Duplicate value: "v""#,
        ]
    );
    let found = spec(r#""volumes": [{"name": "v", "hostPath": {"path": "/a/../b"}}],"#);
    assert_eq!(found, [r#"spec.volumes[0].hostPath.path: Invalid value: "/a/../b": must not contain '..'"#]);
}

#[test]
fn a_probe_acts_in_one_way() {
    let found = container(r#""livenessProbe": {"successThreshold": 2},"#);
    assert_eq!(
        found,
        [
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ]
    );
    let found = container(r#""readinessProbe": {"tcpSocket": {"port": 80}, "exec": {"command": ["x"]}, "successThreshold": 2},"#);
    assert_eq!(found, ["spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"]);
    let found = spec(r#""initContainers": [{"name": "i", "image": "a", "livenessProbe": {"tcpSocket": {"port": 80}}}],"#);
    assert!(found[0].starts_with("spec.initContainers[0].livenessProbe: Forbidden: may not be set for init"), "{found:?}");
}

#[test]
fn tolerations_and_spread_make_sense() {
    let found = spec(r#""tolerations": [{"operator": "Equal"}, {"key": "a", "operator": "Exists", "tolerationSeconds": 5}],"#);
    assert!(found[0].starts_with("spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists"), "{found:?}");
    assert!(found[1].starts_with("spec.tolerations[1].effect: Invalid value"), "{found:?}");
    let one = r#"{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}"#;
    let found = spec(&format!(r#""topologySpreadConstraints": [{one}, {one}],"#));
    assert_eq!(
        found,
        [r#"spec.topologySpreadConstraints[1].{topologyKey, whenUnsatisfiable}: Duplicate value: "{zone, DoNotSchedule}""#]
    );
}

#[test]
fn affinity_terms_have_values_where_they_compare() {
    let term = r#"{"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In"}, {"key": "b", "operator": "Gt", "values": ["x"]}]}]}"#;
    let found =
        spec(&format!(r#""affinity": {{"nodeAffinity": {{"requiredDuringSchedulingIgnoredDuringExecution": {term}}}}},"#));
    assert_eq!(found.len(), 2);
    assert!(found[0].contains("matchExpressions[0].values: Required value: must be specified when"), "{found:?}");
}

#[test]
fn only_image_deadline_and_more_tolerations_can_change() {
    let old = pod("", r#""tolerations": [{"key": "a", "operator": "Exists"}],"#);
    assert_eq!(change(&old, |spec| spec.containers[0].image = "web:2".into()), [""; 0]);
    assert_eq!(change(&old, |spec| spec.active_deadline_seconds = Some(5)), [""; 0]);
    let more = api::core::v1::Toleration { key: "b".into(), operator: "Exists".into(), ..Default::default() };
    assert_eq!(change(&old, |spec| spec.tolerations.push(more)), [""; 0]);
    let found = change(&old, |spec| spec.tolerations.clear());
    assert!(found[0].starts_with("spec.tolerations: Forbidden: existing toleration can not be modified"), "{found:?}");
    let found = change(&old, |spec| spec.containers[0].command = vec!["sh".into()]);
    assert!(found[0].starts_with("spec: Forbidden: pod updates may not change fields other than"), "{found:?}");
    assert!(found[0].ends_with("; changed: spec.containers[0].command"), "{found:?}");
    let found = change(&old, |spec| spec.containers.push(Default::default()));
    assert_eq!(found, ["spec.containers: Forbidden: pod updates may not add or remove containers"]);
}

#[test]
fn gates_are_only_opened_and_nodes_only_become_fewer_before_them() {
    let old = pod("", r#""schedulingGates": [{"name": "a.io/g"}],"#);
    assert_eq!(change(&old, |spec| spec.scheduling_gates.clear()), [""; 0]);
    assert_eq!(change(&old, |spec| drop(spec.node_selector.insert("a".into(), "b".into()))), [""; 0]);
    let found = change(&old, |spec| spec.scheduling_gates[0].name = "b.io/g".into());
    assert!(found[0].contains("only deletion is allowed, but found new scheduling gate 'b.io/g'"), "{found:?}");
    let ungated = pod("", "");
    assert_eq!(change(&ungated, |spec| drop(spec.node_selector.insert("a".into(), "b".into()))).len(), 1);
}

#[test]
fn a_pod_that_never_started_or_has_ended_goes_at_once() {
    let mut pod = pod("", r#""terminationGracePeriodSeconds": 7,"#);
    let (plain, asked) = (DeleteOptions::default(), DeleteOptions { grace_period_seconds: Some(3), ..Default::default() });
    assert_eq!(PodStrategy.grace_period(&pod, &plain), Some(0));
    pod.spec_mut().node_name = "node-1".into();
    assert_eq!(PodStrategy.grace_period(&pod, &plain), Some(7));
    assert_eq!(PodStrategy.grace_period(&pod, &asked), Some(3));
    pod.status_mut().phase = "Failed".into();
    assert_eq!(PodStrategy.grace_period(&pod, &plain), Some(0));
}

#[test]
fn what_ended_for_good_does_not_run_again() {
    let state = |exit_code: Option<i32>| ContainerState {
        terminated: exit_code.map(|exit_code| ContainerStateTerminated { exit_code, ..Default::default() }),
        running: exit_code.is_none().then(ContainerStateRunning::default),
        ..Default::default()
    };
    let with = |policy: &str, exit_code: Option<i32>| {
        let mut pod = pod("", &format!(r#""restartPolicy": "{policy}","#));
        let status = ContainerStatus { name: "main".into(), state: Some(state(exit_code)), ..Default::default() };
        pod.status_mut().container_statuses = vec![status];
        pod
    };
    for (policy, exit_code, wrong) in [("Never", 1, 1), ("OnFailure", 1, 0), ("OnFailure", 0, 1), ("Always", 0, 0)] {
        let found = testing::update_errors(&PodStrategy, "status", &with(policy, None), &with(policy, Some(exit_code)));
        assert_eq!(found.len(), wrong, "{policy} {exit_code}: {found:?}");
    }
}

#[test]
fn a_status_keeps_its_class_and_its_addresses_agree() {
    let old = pod("", "");
    let mut new = old.clone();
    new.status_mut().qos_class.clear();
    new.status_mut().pod_ip = "10.244.1.2".into();
    let new = testing::part_updated(&PodStrategy, &subresource::STATUS, new, &old);
    assert_eq!((new.status().qos_class.as_str(), new.status().pod_ips[0].ip.as_str()), ("BestEffort", "10.244.1.2"));
}

#[test]
fn ephemeral_containers_are_added_and_stay() {
    let old = pod("", "");
    let mut new = old.clone();
    new.spec_mut().ephemeral_containers = testing::json::<Pod>(
        r#"{"spec": {"ephemeralContainers": [{"name": "debug", "image": "sh", "targetContainerName": "main"}]}}"#,
    )
    .spec()
    .ephemeral_containers
    .clone();
    new.spec_mut().node_name = "sneaked-in".into();
    let new = testing::part_updated(&PodStrategy, &subresource::EPHEMERAL_CONTAINERS, new, &old);
    assert_eq!(new.spec().node_name, "");
    assert_eq!(testing::update_errors(&PodStrategy, "ephemeralcontainers", &new, &old), [""; 0]);
    let found = testing::update_errors(&PodStrategy, "ephemeralcontainers", &old, &new);
    assert_eq!(found, [r#"spec.ephemeralContainers: Forbidden: existing ephemeral containers "debug" may not be removed"#]);
}

#[test]
fn a_gated_pod_says_so_until_its_gates_are_gone() {
    let condition =
        |pod: &Pod| pod.status().conditions.iter().map(|c| format!("{}={}/{}", c.r#type, c.status, c.reason)).collect::<Vec<_>>();
    let old = pod("", r#""schedulingGates": [{"name": "example.org/a"}, {"name": "example.org/b"}],"#);
    assert_eq!(condition(&old), ["PodScheduled=False/SchedulingGated"]);
    assert_eq!(condition(&pod("", "")), [""; 0]);
    let mut half = old.clone();
    half.spec_mut().scheduling_gates.pop();
    let half = testing::updated(&PodStrategy, half, &old);
    assert_eq!(condition(&half), ["PodScheduled=False/SchedulingGated"]);
    let mut free = half.clone();
    free.spec_mut().scheduling_gates.clear();
    let free = testing::updated(&PodStrategy, free, &half);
    assert_eq!(condition(&free), [""; 0]);
    assert_eq!(testing::update_errors(&PodStrategy, "", &free, &half), [""; 0]);
}

#[test]
fn keys_of_the_pods_own_labels_are_written_into_its_selectors() {
    let term = r#"{"topologyKey": "zone", "labelSelector": {"matchLabels": {"a": "b"}}, "matchLabelKeys": ["rev", "none"],
        "mismatchLabelKeys": ["tenant"]}"#;
    let rules = format!(
        r#"{{"requiredDuringSchedulingIgnoredDuringExecution": [{term}],
            "preferredDuringSchedulingIgnoredDuringExecution": [{{"weight": 1, "podAffinityTerm": {term}}}]}}"#
    );
    let text = format!(
        r#"{{"metadata": {{"name": "web", "labels": {{"rev": "7", "tenant": "t"}}}}, "spec": {{
            "containers": [{{"name": "main", "image": "web:1"}}],
            "affinity": {{"podAffinity": {rules}, "podAntiAffinity": {rules}}},
            "topologySpreadConstraints": [{{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {{}}, "matchLabelKeys": ["rev"]}}]}}}}"#
    );
    let pod = testing::created(PodStrategy, testing::json(&text));
    assert_eq!(testing::errors(&PodStrategy, &pod), [""; 0]);
    let shown = |selector: &api::meta::v1::LabelSelector| -> Vec<String> {
        selector.match_expressions.iter().map(|r| format!("{} {} {:?}", r.key, r.operator, r.values)).collect()
    };
    let affinity = pod.spec().affinity();
    for (required, preferred) in [
        (
            &affinity.pod_affinity().required_during_scheduling_ignored_during_execution,
            &affinity.pod_affinity().preferred_during_scheduling_ignored_during_execution,
        ),
        (
            &affinity.pod_anti_affinity().required_during_scheduling_ignored_during_execution,
            &affinity.pod_anti_affinity().preferred_during_scheduling_ignored_during_execution,
        ),
    ] {
        for selector in [required[0].label_selector(), preferred[0].pod_affinity_term().label_selector()] {
            assert_eq!(shown(selector), [r#"rev In ["7"]"#, r#"tenant NotIn ["t"]"#]);
        }
    }
    assert_eq!(shown(pod.spec().topology_spread_constraints[0].label_selector()), [r#"rev In ["7"]"#]);
    // An update does not write them again.
    assert_eq!(change(&pod, |_| {}), [""; 0]);
    let twice = text.replace(r#""matchLabels": {"a": "b"}"#, r#""matchLabels": {"rev": "6"}"#);
    let found = testing::errors(&PodStrategy, &testing::created(PodStrategy, testing::json(&twice)));
    assert_eq!(found.len(), 4);
    assert!(
        found[0].ends_with(r#"[0].matchLabelKeys[0]: Invalid value: "rev": exists in both matchLabelKeys and labelSelector"#),
        "{found:?}"
    );
}

#[test]
fn what_no_node_can_run_is_taken_with_a_remark() {
    let warnings = |spec: &str| PodStrategy.warnings(&pod("", spec));
    assert_eq!(warnings(""), [""; 0]);
    let said = "spec.initContainers: init containers are not supported by this kubelet yet: nodes will not run the pod";
    assert_eq!(warnings(r#""initContainers": [{"name": "i", "image": "i"}],"#), [said]);
    let said = "spec.volumes[0]: volumes of this type are not supported by this kubelet yet: nodes will not run the pod";
    assert_eq!(warnings(r#""volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}],"#), [said]);
    let template = PodTemplateSpec { spec: pod("", r#""hostUsers": false,"#).spec, ..Default::default() };
    let said = super::template_warnings(&template, "spec.template");
    assert!(said.len() == 1 && said[0].starts_with("spec.template.spec.hostUsers: "), "{said:?}");
}

#[test]
fn what_is_not_valid_is_refused_by_its_field() {
    for (spec_text, expected) in [
        (r#""dnsConfig": {"searches": ["a b"]},"#, r#"spec.dnsConfig.searches[0]: Invalid value: "a b""#),
        (r#""dnsConfig": {"searches": [""]},"#, r#"spec.dnsConfig.searches[0]: Invalid value: """#),
        (r#""securityContext": {"sysctls": [{"name": "a..b", "value": "1"}]},"#, "spec.securityContext.sysctls[0].name: Invalid"),
        (r#""terminationGracePeriodSeconds": 4611686018427387904,"#, "spec.terminationGracePeriodSeconds: Invalid value"),
    ] {
        let found = spec(spec_text);
        assert!(found.len() == 1 && found[0].starts_with(expected), "{spec_text}: {found:?}");
    }
    for (text, expected) in [
        (
            r#""livenessProbe": {"httpGet": {"port": 80, "httpHeaders": [{"name": "X Y", "value": "z"}]}},"#,
            r#"spec.containers[0].livenessProbe.httpGet.httpHeaders[0].name: Invalid value: "X Y""#,
        ),
        (
            r#""resources": {"limits": {"hugepages-2Mi": "4Mi"}},"#,
            "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
        ),
        (
            r#""resources": {"limits": {"cpu": "1", "hugepages-2Mi": "3Mi"}, "requests": {"cpu": "1"}},"#,
            r#"spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple"#,
        ),
        (
            r#""env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v2", "fieldPath": "metadata.name"}}}],"#,
            r#"spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "metadata.name": error converting fieldPath"#,
        ),
    ] {
        let found = container(text);
        assert!(!found.is_empty() && found[0].starts_with(expected), "{text}: {found:?}");
    }
    assert_eq!(spec(r#""dnsConfig": {"searches": [".", "_tcp.example.com."]}, "imagePullSecrets": [{}],"#), [""; 0]);
    assert_eq!(spec(r#""terminationGracePeriodSeconds": 2147483647,"#), [""; 0]);
}

#[test]
fn ephemeral_containers_are_not_there_from_the_beginning() {
    let pod = pod("", r#""ephemeralContainers": [{"name": "e", "image": "e:1"}],"#);
    let mut errors = FieldErrors::default();
    PodStrategy.validate_create(&pod, &mut errors);
    assert_eq!(errors.to_string(), "spec.ephemeralContainers: Forbidden: cannot be set on create");
}

#[test]
fn service_links_are_defaulted_in_pods_alone() {
    assert_eq!(pod("", "").spec().enable_service_links, Some(true));
    let mut template = PodTemplateSpec { spec: Some(api::core::v1::PodSpec::default()), ..Default::default() };
    super::set_template_defaults(&mut template);
    assert_eq!(template.spec().enable_service_links, None);
}

#[test]
fn a_grace_period_ends_before_time_does() {
    let mut pod = pod("", "");
    pod.spec_mut().node_name = "n".into();
    let grace = |pod: &Pod, asked: Option<i64>| {
        PodStrategy.grace_period(pod, &DeleteOptions { grace_period_seconds: asked, ..Default::default() })
    };
    assert_eq!((grace(&pod, Some(-1)), grace(&pod, Some(i64::MIN)), grace(&pod, Some(0))), (Some(1), Some(1), Some(0)));
    assert_eq!(grace(&pod, Some(i64::MAX)), Some(2_147_483_647));
    pod.spec_mut().termination_grace_period_seconds = Some(1 << 62);
    assert_eq!(grace(&pod, None), Some(2_147_483_647));
}
