// What a dashboard's JSON has to be, from the types that Grafana publishes. In JSON an enum is its
// plain value, and what a panel type has of its own stands where the common type is open.
import type { Dashboard, FieldConfig, Panel, RowPanel } from '@grafana/schema/dist/esm/raw/dashboard/x/Dashboard_types.gen';
import type * as barGauge from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type * as heatmap from '@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import type * as stat from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type * as stateTimeline from '@grafana/schema/dist/esm/raw/composable/statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen';
import type * as table from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type * as timeSeries from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

type Plain<T> = T extends string
  ? `${T}`
  : T extends (infer Item)[]
    ? Plain<Item>[]
    : T extends object
      ? { [Key in keyof T]: Plain<T[Key]> }
      : T;

type Known<T> = { [Key in keyof T as string extends Key ? never : Key]: T[Key] };

type Fields<Custom> = {
  defaults: Plain<Omit<FieldConfig, 'custom'>> & { custom?: Partial<Plain<Known<Custom>>> };
  overrides: { matcher: { id: string; options?: unknown }; properties: { id: string; value?: unknown }[] }[];
};

interface PrometheusQuery {
  datasource: { type: 'prometheus'; uid: string };
  editorMode: 'code' | 'builder';
  exemplar: boolean;
  expr: string;
  format: 'time_series' | 'table' | 'heatmap';
  instant: boolean;
  legendFormat: string;
  range: boolean;
  refId: string;
}

// As the query editor of the data source saves SQL.
interface ClickHouseQuery {
  datasource: { type: 'grafana-clickhouse-datasource'; uid: string };
  editorType: 'sql';
  format: 0 | 1 | 2 | 3;
  queryType: 'table' | 'timeseries' | 'logs' | 'traces';
  rawSql: string;
  refId: string;
}

type Typed<Type, Options, Custom> = Plain<Omit<Panel, 'type' | 'options' | 'fieldConfig' | 'targets'>> & {
  type: Type;
  options: Partial<Plain<Options>>;
  fieldConfig: Fields<Custom>;
  targets: PrometheusQuery[] | ClickHouseQuery[];
};

type AnyPanel =
  | (Plain<Omit<RowPanel, 'panels'>> & { type: 'row'; panels: AnyPanel[] })
  | Typed<'bargauge', barGauge.Options, {}>
  | Typed<'heatmap', heatmap.Options, heatmap.FieldConfig>
  | Typed<'stat', stat.Options, {}>
  | Typed<'state-timeline', stateTimeline.Options, stateTimeline.FieldConfig>
  | Typed<'table', table.Options, table.FieldConfig>
  | Typed<'timeseries', timeSeries.Options, timeSeries.FieldConfig>;

type PrometheusAnnotation = {
  expr: string;
  step: string;
  tagKeys: string;
  titleFormat: string;
  useValueForTime: boolean;
};

type Annotations = NonNullable<NonNullable<Dashboard['annotations']>['list']>[number];

export type AnyDashboard = Plain<Omit<Dashboard, 'panels' | 'annotations'>> & {
  annotations: { list: (Plain<Annotations> & PrometheusAnnotation)[] };
  panels: AnyPanel[];
};
