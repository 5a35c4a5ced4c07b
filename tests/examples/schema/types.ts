// The manifests that the example has, from the types that are generated from the API of Kubernetes
// and of the Prometheus Operator.
import type { IServiceMonitor } from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor';
import type { IPrometheusRule } from '@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule';
import type { IDeployment } from 'kubernetes-models/apps/v1/Deployment';
import type { IIngress } from 'kubernetes-models/networking.k8s.io/v1/Ingress';
import type { IConfigMap } from 'kubernetes-models/v1/ConfigMap';
import type { IService } from 'kubernetes-models/v1/Service';

export interface Kinds {
  ConfigMap: IConfigMap;
  Deployment: IDeployment;
  Ingress: IIngress;
  PrometheusRule: IPrometheusRule;
  Service: IService;
  ServiceMonitor: IServiceMonitor;
}
