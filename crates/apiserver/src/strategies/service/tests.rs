use super::*;
use crate::strategies::testing;

fn service(spec: &str) -> Service {
    testing::created(ServiceStrategy, testing::json(&format!(r#"{{"metadata": {{"name": "web"}}, "spec": {spec}}}"#)))
}

fn errors(spec: &str) -> Vec<String> {
    testing::errors(&ServiceStrategy, &service(spec))
}

#[test]
fn defaults_follow_type_and_affinity() {
    let plain = service(r#"{"ports": [{"port": 80}]}"#);
    let spec = plain.spec();
    assert_eq!(spec.ports[0].target_port, Some(80.into()));
    assert_eq!((spec.r#type.as_str(), spec.session_affinity.as_str()), ("ClusterIP", "None"));
    assert_eq!((spec.ip_families.as_slice(), spec.external_traffic_policy.as_str()), (&["IPv4".to_owned()][..], ""));
    assert_eq!(testing::errors(&ServiceStrategy, &plain), [""; 0]);
    let sticky = service(r#"{"ports": [{"port": 80}], "sessionAffinity": "ClientIP", "type": "NodePort"}"#);
    assert_eq!(sticky.spec().session_affinity_config().client_ip().timeout_seconds(), 10_800);
    assert_eq!(sticky.spec().external_traffic_policy, "Cluster");
    assert_eq!(testing::errors(&ServiceStrategy, &sticky), [""; 0]);
}

#[test]
fn affinity_settings_go_with_the_affinity() {
    let old = service(r#"{"ports": [{"port": 80}], "sessionAffinity": "ClientIP"}"#);
    let mut new = old.clone();
    new.spec_mut().session_affinity = "None".into();
    let new = testing::updated(&ServiceStrategy, new, &old);
    assert_eq!(new.spec().session_affinity_config, None);
    assert_eq!(testing::errors(&ServiceStrategy, &new), [""; 0]);
}

#[test]
fn ports_are_named_and_different() {
    let found = errors(r#"{"ports": [{"port": 80, "name": "a"}, {"port": 80, "name": "a"}, {"port": 81}]}"#);
    assert_eq!(
        found,
        [
            r#"spec.ports[1].name: Duplicate value: "a""#,
            r#"spec.ports[1]: Duplicate value: "80/TCP""#,
            "spec.ports[2].name: Required value",
        ]
    );
    assert_eq!(errors("{}"), ["spec.ports: Required value"]);
    assert_eq!(errors(r#"{"clusterIP": "None"}"#), [""; 0]);
}

#[test]
fn a_port_is_a_16_bit_number() {
    let found = errors(r#"{"ports": [{"port": 70000}]}"#);
    assert_eq!(found[0], "spec.ports[0].port: Invalid value: 70000: must be between 1 and 65535, inclusive");
}

#[test]
fn node_ports_belong_to_types_that_have_them() {
    let found = errors(r#"{"ports": [{"port": 80, "nodePort": 30080}]}"#);
    assert_eq!(found, ["spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"]);
    assert_eq!(errors(r#"{"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}"#), [""; 0]);
}

#[test]
fn an_external_name_may_end_with_a_dot() {
    for good in ["example.com", "example.com."] {
        assert_eq!(errors(&format!(r#"{{"type": "ExternalName", "externalName": "{good}"}}"#)), [""; 0]);
    }
    assert_eq!(errors(r#"{"type": "ExternalName"}"#), ["spec.externalName: Required value"]);
    assert_eq!(errors(r#"{"type": "ExternalName", "externalName": "-x"}"#).len(), 1);
    let found = errors(r#"{"type": "ExternalName", "externalName": "a.b", "clusterIP": "10.0.0.1"}"#);
    assert_eq!(found, ["spec.clusterIPs: Forbidden: may not be set for ExternalName services"]);
}

#[test]
fn a_headless_service_is_a_cluster_ip_service() {
    let found = errors(r#"{"type": "NodePort", "clusterIP": "None", "ports": [{"port": 80}]}"#);
    assert_eq!(found, [r#"spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services"#]);
}

#[test]
fn a_cluster_ip_is_of_the_clusters_family() {
    let found = errors(r#"{"clusterIP": "fd00::1", "ports": [{"port": 80}]}"#);
    let wanted = "expected an IPv4 value as indicated by `spec.ipFamilies[0]`";
    assert_eq!(found, [format!(r#"spec.clusterIPs[0]: Invalid value: "fd00::1": {wanted}"#)]);
    let found = errors(r#"{"clusterIP": "10.96.0.300", "ports": [{"port": 80}]}"#);
    assert!(
        found.iter().any(|e| e.starts_with("spec.clusterIPs[0]: Invalid value: \"10.96.0.300\": must be empty, 'None'")),
        "{found:?}"
    );
}

#[test]
fn an_update_keeps_what_the_server_gave() {
    let mut old = service(r#"{"type": "NodePort", "ports": [{"port": 80}]}"#);
    let spec = old.spec_mut();
    (spec.cluster_ip, spec.cluster_ips) = ("10.96.0.7".into(), vec!["10.96.0.7".into()]);
    spec.ports[0].node_port = 30123;
    let sent: Service = testing::json(r#"{"spec": {"type": "NodePort", "ports": [{"port": 80, "targetPort": 8080}]}}"#);
    let new = testing::updated(&ServiceStrategy, sent, &old);
    assert_eq!((new.spec().cluster_ip.as_str(), new.spec().ports[0].node_port), ("10.96.0.7", 30123));
    assert_eq!(new.spec().cluster_ips, ["10.96.0.7"]);
    assert_eq!(testing::update_errors(&ServiceStrategy, "", &new, &old), [""; 0]);
    let sent: Service = testing::json(r#"{"spec": {"clusterIP": "10.96.0.8", "ports": [{"port": 80}]}}"#);
    let new = testing::updated(&ServiceStrategy, sent, &old);
    assert_eq!(
        testing::update_errors(&ServiceStrategy, "", &new, &old),
        [r#"spec.clusterIPs[0]: Invalid value: ["10.96.0.8"]: may not change once set"#]
    );
}

#[test]
fn a_change_of_type_drops_what_only_the_old_type_had() {
    let mut old = service(r#"{"type": "NodePort", "ports": [{"port": 80}]}"#);
    let spec = old.spec_mut();
    (spec.cluster_ip, spec.cluster_ips) = ("10.96.0.7".into(), vec!["10.96.0.7".into()]);
    spec.ports[0].node_port = 30123;
    let mut sent = old.clone();
    sent.spec_mut().r#type = "ClusterIP".into();
    let new = testing::updated(&ServiceStrategy, sent.clone(), &old);
    assert_eq!((new.spec().ports[0].node_port, new.spec().external_traffic_policy.as_str()), (0, ""));
    assert_eq!(new.spec().cluster_ip, "10.96.0.7");
    assert_eq!(testing::errors(&ServiceStrategy, &new), [""; 0]);
    sent.spec_mut().r#type = "ExternalName".into();
    sent.spec_mut().external_name = "example.com".into();
    let new = testing::updated(&ServiceStrategy, sent, &old);
    assert_eq!((new.spec().cluster_ip.as_str(), new.spec().cluster_ips.len()), ("", 0));
    assert_eq!(testing::errors(&ServiceStrategy, &new), [""; 0]);
    assert_eq!(testing::update_errors(&ServiceStrategy, "", &new, &old), [""; 0]);
}

#[test]
fn a_headless_service_without_selector_is_of_either_family() {
    let families = |spec: &str| {
        let service = service(spec);
        assert_eq!(testing::errors(&ServiceStrategy, &service), [""; 0], "{spec}");
        format!("{} {}", service.spec().ip_family_policy(), service.spec().ip_families.join(","))
    };
    assert_eq!(families(r#"{"clusterIP": "None"}"#), "RequireDualStack IPv4,IPv6");
    assert_eq!(families(r#"{"clusterIP": "None", "ipFamilies": ["IPv6"]}"#), "RequireDualStack IPv6,IPv4");
    assert_eq!(families(r#"{"clusterIP": "None", "ipFamilyPolicy": "SingleStack"}"#), "SingleStack IPv4");
    assert_eq!(families(r#"{"clusterIP": "None", "selector": {"a": "b"}}"#), "SingleStack IPv4");
}

#[test]
fn what_a_load_balancer_reports_is_an_address_or_a_name() {
    let report = |ingress: &str| {
        let text = format!(r#"{{"metadata": {{"name": "web"}}, "status": {{"loadBalancer": {{"ingress": [{ingress}]}}}}}}"#);
        let mut service: Service = testing::json(&text);
        ServiceStrategy.set_defaults(&mut service);
        let mut found = Vec::new();
        let mut errors = api::rules::FieldErrors::default();
        api::Object::validate(&service, None, &mut errors);
        found.extend(
            errors.0.into_iter().filter(|e| e.field.starts_with("status")).map(|e| format!("{}: {}", e.field, e.message)),
        );
        found.extend(testing::update_errors(&ServiceStrategy, "status", &service, &Service::default()));
        (service.status().load_balancer().ingress[0].ip_mode.clone(), found)
    };
    assert_eq!(report(r#"{"ip": "203.0.113.7"}"#), (Some("VIP".to_owned()), Vec::new()));
    assert_eq!(report(r#"{"hostname": "lb.example.com"}"#), (None, Vec::new()));
    for (bad, at) in [
        (r#"{"ip": "not-an-ip"}"#, "status.loadBalancer.ingress[0].ip: Invalid value"),
        (r#"{"hostname": "1.2.3.4"}"#, "status.loadBalancer.ingress[0].hostname: Invalid value"),
        (r#"{"hostname": "a.b", "ipMode": "VIP"}"#, "status.loadBalancer.ingress[0].ipMode: Forbidden"),
    ] {
        let (_, found) = report(bad);
        assert!(found.len() == 1 && found[0].starts_with(at), "{bad}: {found:?}");
    }
}
